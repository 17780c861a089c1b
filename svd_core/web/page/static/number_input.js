/**
 * Number fields: a decimal comma, and grouped digits that are pasted.
 *
 * Some browsers drop a comma without a sign, so that 0,05 becomes 5. What a browser reads by itself
 * is left alone.
 */

const COMMA = /^\s*[\d.,'’\s]*[.,'’\s][\d.,'’\s]*$/;
const isNumber = (input) => input instanceof HTMLInputElement && input.type === "number";
const plain = (text) => {
    const digits = text.replace(/[\s'’]/g, "");
    const point = Math.max(digits.lastIndexOf(","), digits.lastIndexOf("."));
    if (point < 0) return digits;
    const whole = digits.slice(0, point).replace(/[.,]/g, "");
    const single = digits.indexOf(digits[point]) === point;
    return single ? `${whole}.${digits.slice(point + 1)}` : digits.replace(/[.,]/g, "");
};
let inserted = null;  // what the browser took of the text that is being inserted
const insert = (text) => {
    inserted = "";
    document.execCommand("insertText", false, text);
    const taken = inserted;
    inserted = null;
    return taken;
};
document.addEventListener("input", ({ data }) => {
    if (inserted !== null) inserted += data ?? "";
}, true);
document.addEventListener("beforeinput", (event) => {
    if (inserted !== null || !isNumber(event.target) || event.data !== ",") return;
    event.preventDefault();
    if (insert(",") !== ",") insert(".");
}, true);
document.addEventListener("paste", (event) => {
    const input = event.target;
    const text = event.clipboardData?.getData("text/plain").trim() ?? "";
    if (!isNumber(input) || !COMMA.test(text)) return;
    event.preventDefault();
    insert(text);
    if (input.value.replace(/\D/g, "") !== text.replace(/\D/g, "")) return;  // into other digits
    if (input.valueAsNumber === Number(plain(text))) return;
    input.select();
    insert(plain(text));
}, true);
