// Files too large for the server are stopped before they are sent, with a sentence beside their field.

const MAX_BYTES = 0;  // the server puts it in

const sentence = () => element.textContent.trim();
const field = (node) => node.closest(".block") || node.parentElement;
const said = (place) => place.parentElement.querySelector(":scope > .svd-too-large");
const refuse = (event) => {
    const files = [...(event.target.files || event.dataTransfer?.files || [])];
    const input = event.target.closest?.("input[type=file]");
    if (!files.length || (event.type === "change" && !input)) return;
    const place = field(event.target);
    said(place)?.remove();
    if (files.every((file) => file.size <= MAX_BYTES)) return;
    event.preventDefault();
    event.stopImmediatePropagation();
    if (input) input.value = "";
    const told = document.createElement("p");
    told.className = "svd-error svd-too-large";
    told.setAttribute("role", "alert");
    told.textContent = sentence();
    place.after(told);
};
for (const what of ["change", "drop"]) document.addEventListener(what, refuse, true);
