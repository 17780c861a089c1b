"""Theme: Gradio theme with WCAG AA contrast, and the style sheet."""

from pathlib import Path

from gradio.themes import Base, colors

FONT = ["system-ui", "-apple-system", "Segoe UI", "Roboto", "Noto Sans", "sans-serif"]
"""System fonts, so that none is downloaded."""


def theme() -> Base:
    """Gradio theme: warm greys with one accent, darker than stock where stock fails WCAG AA."""
    return Base(
        primary_hue=colors.orange,
        secondary_hue=colors.orange,
        neutral_hue=colors.stone,
        radius_size="lg",
        spacing_size="md",
        font=FONT,
        font_mono=["ui-monospace", "monospace"],
    ).set(
        body_background_fill="*neutral_100",
        body_background_fill_dark="#12100e",
        background_fill_primary="white",
        background_fill_primary_dark="#1b1917",
        background_fill_secondary="*neutral_50",
        background_fill_secondary_dark="#211f1c",
        block_background_fill="white",
        block_background_fill_dark="#1b1917",
        block_border_width="1px",
        block_border_color="*neutral_200",
        block_border_color_dark="*neutral_800",
        border_color_primary="*neutral_200",
        border_color_primary_dark="*neutral_700",
        block_shadow="none",
        block_label_text_color="*neutral_700",
        block_label_text_color_dark="*neutral_200",
        block_title_text_color="*neutral_800",
        block_title_text_color_dark="*neutral_100",
        block_title_text_weight="600",
        block_info_text_color="*neutral_600",
        block_info_text_color_dark="*neutral_400",
        body_text_color="*neutral_900",
        body_text_color_dark="*neutral_100",
        body_text_color_subdued="*neutral_600",
        body_text_color_subdued_dark="*neutral_400",
        input_background_fill="*neutral_50",
        input_background_fill_dark="#12100e",
        input_border_color="*neutral_300",
        input_border_color_dark="*neutral_700",
        input_placeholder_color="*neutral_500",
        input_placeholder_color_dark="*neutral_400",
        button_primary_background_fill="*primary_700",
        button_primary_background_fill_hover="*primary_800",
        button_primary_background_fill_dark="*primary_700",
        button_primary_background_fill_hover_dark="*primary_600",
        button_primary_text_color="white",
        button_secondary_background_fill="white",
        button_secondary_background_fill_hover="*neutral_100",
        button_secondary_background_fill_dark="#2a2724",
        button_secondary_background_fill_hover_dark="#3a3632",
        button_secondary_border_color="*neutral_300",
        button_secondary_border_color_dark="*neutral_700",
        button_cancel_background_fill="white",
        button_cancel_background_fill_hover="#fef2f2",
        button_cancel_background_fill_dark="#2a2724",
        button_cancel_background_fill_hover_dark="#3a2323",
        button_cancel_border_color="#b91c1c",
        button_cancel_border_color_dark="#fca5a5",
        button_cancel_text_color="#b91c1c",
        button_cancel_text_color_dark="#fca5a5",
        button_border_width="1px",
        checkbox_label_background_fill="*neutral_50",
        checkbox_label_background_fill_dark="#211f1c",
        checkbox_background_color_selected="*primary_700",
        checkbox_background_color_selected_dark="*primary_600",
        slider_color="*primary_700",
        slider_color_dark="*primary_400",
        link_text_color="*primary_800",
        link_text_color_dark="*primary_300",
        color_accent="*primary_700",
    )


CSS = Path(__file__).with_name("static") / "page.css"
"""Style sheet: the layout, and colours and sizes that the theme has no variables for."""
