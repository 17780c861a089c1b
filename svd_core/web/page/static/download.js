/** Click a hidden download button. Python replaces the id. */
() => setTimeout(() => {
    const button = document.querySelector("#ELEM_ID");
    (button.querySelector("a") || button).click();
}, 200)
