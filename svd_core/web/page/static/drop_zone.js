// Drop zone: files dropped anywhere on the page go to the field that takes them, with a hint while
// they are dragged over the page. Several photos go to the batch panel.
//
// On a field that takes files, a file is what that field takes: a GIF or a WebP on the photo field
// is a photo. Elsewhere a GIF is a video, since hardly any photo is one, and a WebP is a video if it
// moves. Stock fields lose a file dropped on them while they hold one, so this script places those
// files too.

const FIELDS = "#photo-area, #photos, #recipe-file";
const SURELY = /\.(mp4|zip)$/i;
let own = false;  // what is dragged is a picture of this page

const kindOf = (items) => {
    const types = items.filter((item) => item.kind === "file").map((item) => item.type);
    const video = types.some((type) => /^video|zip|gif$/.test(type));
    const known = types.length && types.every((type) => type && type !== "image/webp");
    return video ? "video" : known ? "photo" : "any";
};
const moves = async (file) => {
    if (SURELY.test(file.name) || /\.gif$/i.test(file.name)) return true;
    if (/^video/.test(file.type)) return true;
    const head = new Uint8Array(await file.slice(0, 21).arrayBuffer());
    const tag = String.fromCharCode(...head.slice(8, 16));
    return tag === "WEBPVP8X" && (head[20] & 2) > 0;  // a flag of WebP's header
};
const hint = (kind) => {
    const shown = document.getElementById("drop");
    if (kind) shown.dataset.kind = kind;
    else delete shown.dataset.kind;
};
const until = async (find) => {
    for (let tries = 0; tries < 100 && !find(); tries++) {
        await new Promise((then) => setTimeout(then, 30));
    }
    return find();
};
const give = async (files, field, panel) => {
    const at = (inside) => document.querySelector(`${field} ${inside}`);
    document.querySelector(`${panel}-button[aria-selected="false"]`)?.click();
    await until(() => document.querySelector(field));
    if (!at("input[type=file]")) {  // it holds a file already, or a photo may come by camera
        (at(".source-selection button") || at(".icon-button:last-of-type"))?.click();
    }
    const input = await until(() => at("input[type=file]"));
    if (!input) return;
    const transfer = new DataTransfer();
    files.forEach((file) => transfer.items.add(file));
    input.files = transfer.files;
    input.dispatchEvent(new Event("change", { bubbles: true }));
    document.querySelector(panel).scrollIntoView({ block: "center" });
};
const place = async (files, field) => {
    if (field === "recipe-file") return give(files.slice(0, 1), "#recipe-file", "#recipe");
    if (field === "photos") return give(files, "#photos", "#batch");
    const moving = await Promise.all(
        files.map((file) => field ? SURELY.test(file.name) : moves(file)));
    const at = moving.indexOf(true);
    if (at >= 0) await give([files[at]], "#recipe-file", "#recipe");
    else if (files.length > 1) await give(files, "#photos", "#batch");
    else await give(files, "#photo", "#photo-area");
};
const ofFiles = (event) => !own && event.dataTransfer?.types.includes("Files");
const occupied = () => document.querySelector("dialog[open]");
const on = (what, act) => window.addEventListener(what, act, true);  // before everybody else

on("dragstart", () => { own = true; });
for (const what of ["dragend", "pointerdown"]) on(what, () => { own = false; });
on("dragover", (event) => {
    if (!ofFiles(event)) return;
    event.preventDefault();
    event.stopImmediatePropagation();  // a list of files would have it that nothing is dropped
    event.dataTransfer.dropEffect = occupied() ? "none" : "copy";
    const field = occupied() || event.target.closest?.(FIELDS);
    hint(field ? "" : kindOf([...event.dataTransfer.items]));
});
on("dragleave", (event) => { if (!event.relatedTarget) hint(""); });
on("drop", (event) => {
    hint("");
    if (!ofFiles(event)) return;
    event.preventDefault();  // or the browser would leave the page for the file
    event.stopImmediatePropagation();
    event.target.dispatchEvent(new DragEvent("dragleave", { bubbles: true }));  // for stock fields
    const files = [...event.dataTransfer.files];
    const field = event.target.closest?.(FIELDS);
    if (files.length && !occupied()) place(files, field?.id);
});
