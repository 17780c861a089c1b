/**
 * Number fields: a decimal comma, wide and Arabic characters, and numbers that are pasted with
 * groups or words around them.
 *
 * Browsers silently drop what they do not know, so that 0,05 or 0，05 becomes 5. What a browser
 * reads by itself is left alone.
 */

const NUMBER = /[+-]?[.,]?\d(?:[\d.,'’\s]*\d)?(?:e[+-]?\d+)?/gi;
const SIGNS = { "。": ".", "٫": ".", "、": ",", "٬": "'", "−": "-" };
const ascii = (text) => text.normalize("NFKC")
    .replace(/[\u0660-\u0669\u06f0-\u06f9]/g, (digit) => digit.charCodeAt(0) & 15)
    .replace(/[。٫、٬−]/g, (sign) => SIGNS[sign])
    .replace(/\p{Cf}/gu, "");
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
    if (inserted !== null || !isNumber(event.target) || !event.cancelable) return;
    const text = ascii(event.data ?? "");
    if (!text || (text === event.data && text !== ",")) return;
    event.preventDefault();
    if (insert(text) !== text && text === ",") insert(".");
}, true);
document.addEventListener("paste", (event) => {
    const input = event.target;
    const pasted = event.clipboardData?.getData("text/plain").trim() ?? "";
    const [text, another] = ascii(pasted).match(NUMBER) ?? [];
    if (!isNumber(input) || !text || another) return;
    if (text === pasted && !/[,'’\s]|\..*\./.test(text)) return;
    event.preventDefault();
    insert(text);
    if (input.value.replace(/\D/g, "") !== text.replace(/\D/g, "")) return;  // into other digits
    if (input.valueAsNumber === Number(plain(text))) return;
    input.select();
    insert(plain(text));
}, true);
