/**
 * Accessible names of Gradio's own controls, translated.
 *
 * Gradio has them in English only; this element lists the translations. A slider gets its label
 * alone as its name, and a group of choices, which has no name, gets its title.
 */

const labels = new Map(
    [...element.querySelectorAll("[data-label]")].map((item) => [
        item.dataset.label, item.textContent.trim(),
    ]),
);
const PREFIX = /^(number input|range slider) for /;
const translate = (node) => {
    for (const name of ["aria-label", "title"]) {
        const label = node.getAttribute(name);
        const translation = label && (labels.get(label) ?? label.replace(PREFIX, ""));
        if (translation && translation !== label) node.setAttribute(name, translation);
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
        for (const node of addedNodes) if (node.nodeType === Node.ELEMENT_NODE) translateAll(node);
    }
    nameGroups();
}).observe(document.body, {
    subtree: true, childList: true, attributes: true, attributeFilter: ["aria-label", "title"],
});
translateAll(document.body);
nameGroups();
