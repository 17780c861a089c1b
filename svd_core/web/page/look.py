"""How the page looks: a Gradio theme with enough contrast (WCAG AA), and a style sheet."""

from pathlib import Path

from gradio.themes import Base, colors

FONT = ["system-ui", "-apple-system", "Segoe UI", "Roboto", "Noto Sans", "sans-serif"]
"""Fonts that every system has: nothing is fetched for them."""


def theme() -> Base:
    """Neutral greys with one accent, darker than stock where stock fails the contrast check."""
    return Base(
        primary_hue=colors.indigo,
        neutral_hue=colors.zinc,
        radius_size="md",
        font=FONT,
        font_mono=["ui-monospace", "monospace"],
    ).set(
        body_background_fill="*neutral_50",
        body_background_fill_dark="*neutral_950",
        block_border_width="1px",
        block_shadow="none",
        block_label_text_color="*neutral_700",
        block_label_text_color_dark="*neutral_200",
        block_title_text_color="*neutral_800",
        block_title_text_color_dark="*neutral_100",
        block_info_text_color="*neutral_600",
        block_info_text_color_dark="*neutral_400",
        body_text_color_subdued="*neutral_600",
        body_text_color_subdued_dark="*neutral_400",
        button_primary_background_fill="*primary_600",
        button_primary_background_fill_hover="*primary_700",
        button_primary_background_fill_dark="*primary_600",
        button_primary_background_fill_hover_dark="*primary_500",
        button_primary_text_color="white",
        slider_color="*primary_600",
        slider_color_dark="*primary_400",
        input_placeholder_color="*neutral_500",
        input_placeholder_color_dark="*neutral_400",
        link_text_color="*primary_700",
        link_text_color_dark="*primary_300",
    )


CSS = Path(__file__).with_name("page.css")
"""Layout, and what the theme has no names for."""
