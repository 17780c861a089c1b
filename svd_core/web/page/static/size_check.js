/** Size check: files that are too large are stopped before upload, with a message at the field. */

const MAX_BYTES = 0;  // the server fills it in

const sentence = () => element.textContent.trim();
const fieldOf = (node) => node.closest(".block") || node.parentElement;
const messageOf = (field) => field.parentElement.querySelector(":scope > .svd-too-large");
const refuse = (event) => {
    const files = [...(event.target.files || event.dataTransfer?.files || [])];
    const input = event.target.closest?.("input[type=file]");
    if (!files.length || (event.type === "change" && !input)) return;
    const field = fieldOf(event.target);
    messageOf(field)?.remove();
    if (files.every((file) => file.size <= MAX_BYTES)) return;
    event.preventDefault();
    event.stopImmediatePropagation();
    if (input) input.value = "";
    const message = document.createElement("p");
    message.className = "svd-error svd-too-large";
    message.setAttribute("role", "alert");
    message.textContent = sentence();
    field.after(message);
};
for (const type of ["change", "drop"]) document.addEventListener(type, refuse, true);
