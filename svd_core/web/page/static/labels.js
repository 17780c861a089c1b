// Names in the visitor's language for Gradio's own controls, which name themselves in English. The
// list to translate from is in this element; sliders are called by their label alone.

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
new MutationObserver((changes) => {
    for (const { type, target, addedNodes } of changes) {
        if (type === "attributes") translate(target);
        else addedNodes.forEach((node) => node.nodeType === Node.ELEMENT_NODE && translateAll(node));
    }
}).observe(document.body, {
    subtree: true, childList: true, attributes: true, attributeFilter: ["aria-label", "title"],
});
translateAll(document.body);
