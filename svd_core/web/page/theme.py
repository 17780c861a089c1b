"""Theme: Gradio theme with WCAG AA contrast, and the style sheet."""

from collections.abc import Mapping

from gradio.themes import Base, colors

from svd_core.web.page.components import STATIC

CSS = STATIC / "page.css"
"""Style sheet: the layout, and colours and sizes that the theme has no variables for."""

FONT = ["system-ui", "-apple-system", "Segoe UI", "Roboto", "Noto Sans", "sans-serif"]
"""System fonts, so that none is downloaded."""

COLORS: Mapping[str, tuple[str, str]] = {
    "body_background_fill": ("*neutral_100", "#12100e"),
    "background_fill_primary": ("white", "#1b1917"),
    "background_fill_secondary": ("*neutral_50", "#211f1c"),
    "block_background_fill": ("white", "#1b1917"),
    "block_border_color": ("*neutral_200", "*neutral_800"),
    "border_color_primary": ("*neutral_200", "*neutral_700"),
    "block_label_text_color": ("*neutral_700", "*neutral_200"),
    "block_title_text_color": ("*neutral_800", "*neutral_100"),
    "block_info_text_color": ("*neutral_600", "*neutral_400"),
    "body_text_color": ("*neutral_900", "*neutral_100"),
    "body_text_color_subdued": ("*neutral_600", "*neutral_400"),
    "input_background_fill": ("*neutral_50", "#12100e"),
    "input_border_color": ("*neutral_300", "*neutral_700"),
    "input_placeholder_color": ("*neutral_500", "*neutral_400"),
    "button_primary_background_fill": ("*primary_700", "*primary_700"),
    "button_primary_background_fill_hover": ("*primary_800", "*primary_600"),
    "button_secondary_background_fill": ("white", "#2a2724"),
    "button_secondary_background_fill_hover": ("*neutral_100", "#3a3632"),
    "button_secondary_border_color": ("*neutral_300", "*neutral_700"),
    "button_cancel_background_fill": ("white", "#2a2724"),
    "button_cancel_background_fill_hover": ("#fef2f2", "#3a2323"),
    "button_cancel_border_color": ("#b91c1c", "#fca5a5"),
    "button_cancel_text_color": ("#b91c1c", "#fca5a5"),
    "checkbox_label_background_fill": ("*neutral_50", "#211f1c"),
    "checkbox_background_color_selected": ("*primary_700", "*primary_600"),
    "slider_color": ("*primary_700", "*primary_400"),
    "link_text_color": ("*primary_800", "*primary_300"),
}
"""Colours by Gradio's variables, in light and in dark mode."""


def theme() -> Base:
    """Gradio theme: warm greys with one accent, darker than stock where stock fails WCAG AA."""
    light = {name: color for name, (color, _) in COLORS.items()}
    dark = {f"{name}_dark": color for name, (_, color) in COLORS.items()}
    return Base(
        primary_hue=colors.orange,
        secondary_hue=colors.orange,
        neutral_hue=colors.stone,
        radius_size="lg",
        spacing_size="md",
        font=FONT,
        font_mono=["ui-monospace", "monospace"],
    ).set(
        block_border_width="1px",
        block_shadow="none",
        block_title_text_weight="600",
        button_primary_text_color="white",
        button_border_width="1px",
        color_accent="*primary_700",
        **light,
        **dark,
    )
