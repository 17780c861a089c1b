// Buttons that copy the code below them.

element.addEventListener("click", async (event) => {
    const button = event.target.closest("button[data-copied]");
    if (!button) return;
    const code = button.closest("details").querySelector("code");
    getSelection().selectAllChildren(code);
    if (navigator.clipboard) await navigator.clipboard.writeText(code.textContent);
    else document.execCommand("copy");
    const before = button.textContent;
    button.textContent = button.dataset.copied;
    setTimeout(() => { button.textContent = before; }, 1500);
});
