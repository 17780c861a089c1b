// Accessible names of Gradio's own controls. They are English in every language: the list to
// translate from is in this element. Sliders are called by their label alone, and groups of choices,
// which have none, by their title.

const labels = new Map(
    [...element.querySelectorAll("[data-label]")].map((item) => [
        item.dataset.label, item.textContent.trim(),
    ]),
);
const PREFIX = /^(number input|range slider) for /;
const translate = (node) => {
    for (const name of ["aria-label", "title"]) {
        const before = node.getAttribute(name);
        const after = before && (labels.get(before) ?? before.replace(PREFIX, ""));
        if (after && after !== before) node.setAttribute(name, after);
    }
};
const translateAll = (root) => {
    translate(root);
    root.querySelectorAll("[aria-label], [title]").forEach(translate);
    const texts = document.createTreeWalker(root, NodeFilter.SHOW_TEXT);
    while (texts.nextNode()) {
        const label = labels.get(texts.currentNode.data.trim());
        if (label && !element.contains(texts.currentNode)) texts.currentNode.data = label;
    }
};
const nameGroups = () => {
    for (const title of document.querySelectorAll("fieldset:not([aria-label]) > span")) {
        const name = title.firstChild?.textContent.trim();
        if (name) title.parentElement.setAttribute("aria-label", name);
    }
};
new MutationObserver((changes) => {
    for (const { type, target, addedNodes } of changes) {
        if (type === "attributes") translate(target);
        else addedNodes.forEach((node) => node.nodeType === Node.ELEMENT_NODE && translateAll(node));
    }
    nameGroups();
}).observe(document.body, {
    subtree: true, childList: true, attributes: true, attributeFilter: ["aria-label", "title"],
});
translateAll(document.body);
nameGroups();
