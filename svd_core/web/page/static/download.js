() => setTimeout(() => {
    const found = document.querySelector("#ELEM_ID");
    (found.querySelector("a") || found).click();
}, 200)
