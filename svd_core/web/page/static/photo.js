/**
 * Upload button of the photo field: replaces the photo with one click.
 *
 * Gradio's own button only empties a field that holds a photo. Here it opens the file chooser, and
 * the photo stays if the visitor cancels.
 */

document.addEventListener("click", (event) => {
    const button = event.target.closest("#photo .source-selection button:first-child");
    const input = document.querySelector("#photo input[type=file]");
    if (!button || !input || !document.querySelector("#photo img")) return;
    event.stopImmediatePropagation();
    input.click();
}, true);
