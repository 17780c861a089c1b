/**
 * Drop zone: files dropped anywhere on the page go to the field that takes them.
 *
 * A hint is shown while they are dragged over the page. Several photos go to the batch panel. On a
 * field that takes files, a file is what that field takes: a GIF or a WebP on the photo field is a
 * photo. Elsewhere a GIF is a video, since hardly any photo is one, and a WebP is a video if it
 * moves. Stock fields lose a file dropped on them while they hold one, so this script places those
 * files too.
 */

const FIELDS = "#photo-area, #photos, #recipe-file";
const VIDEO_NAME = /\.(mp4|zip)$/i;
let fromPage = false;  // a picture of this page is being dragged

const kindOf = (items) => {
    const types = items.filter((item) => item.kind === "file").map((item) => item.type);
    const video = types.some((type) => /^video|zip|gif$/.test(type));
    const known = types.length && types.every((type) => type && type !== "image/webp");
    return video ? "video" : known ? "photo" : "any";
};
const isVideo = async (file) => {
    if (VIDEO_NAME.test(file.name) || /\.gif$/i.test(file.name)) return true;
    if (/^video/.test(file.type)) return true;
    const head = new Uint8Array(await file.slice(0, 21).arrayBuffer());
    const tag = String.fromCharCode(...head.slice(8, 16));
    return tag === "WEBPVP8X" && (head[20] & 2) > 0;  // the animation flag of WebP's header
};
const hint = (kind) => {
    const zone = document.getElementById("drop");
    if (kind) zone.dataset.kind = kind;
    else delete zone.dataset.kind;
};
const until = async (find) => {
    for (let tries = 0; tries < 100 && !find(); tries++) {
        await new Promise((then) => setTimeout(then, 30));
    }
    return find();
};
const uploadTo = async (files, field, panel) => {
    const find = (inside) => document.querySelector(`${field} ${inside}`);
    document.querySelector(`${panel}-button[aria-selected="false"]`)?.click();
    await until(() => document.querySelector(field));
    if (!find("input[type=file]")) {  // the field holds a file already, or shows the camera
        (find(".source-selection button") || find(".icon-button:last-of-type"))?.click();
    }
    const input = await until(() => find("input[type=file]"));
    if (!input) return;
    const transfer = new DataTransfer();
    files.forEach((file) => transfer.items.add(file));
    input.files = transfer.files;
    input.dispatchEvent(new Event("change", { bubbles: true }));
    document.querySelector(panel).scrollIntoView({ block: "center" });
};
const place = async (files, field) => {
    if (field === "recipe-file") return uploadTo(files.slice(0, 1), "#recipe-file", "#recipe");
    if (field === "photos") return uploadTo(files, "#photos", "#batch");
    const areVideos = await Promise.all(
        files.map((file) => field ? VIDEO_NAME.test(file.name) : isVideo(file)));
    const first = areVideos.indexOf(true);
    if (first >= 0) await uploadTo([files[first]], "#recipe-file", "#recipe");
    else if (files.length > 1) await uploadTo(files, "#photos", "#batch");
    else await uploadTo(files, "#photo", "#photo-area");
};
const hasFiles = (event) => !fromPage && event.dataTransfer?.types.includes("Files");
const isDialogOpen = () => document.querySelector("dialog[open]") !== null;
const on = (type, listener) => window.addEventListener(type, listener, true);  // before all others

on("dragstart", () => { fromPage = true; });
for (const type of ["dragend", "pointerdown"]) on(type, () => { fromPage = false; });
on("dragover", (event) => {
    if (!hasFiles(event)) return;
    event.preventDefault();
    event.stopImmediatePropagation();  // Gradio's list of files would forbid the drop
    event.dataTransfer.dropEffect = isDialogOpen() ? "none" : "copy";
    const field = isDialogOpen() || event.target.closest?.(FIELDS);
    hint(field ? "" : kindOf([...event.dataTransfer.items]));
});
on("dragleave", (event) => { if (!event.relatedTarget) hint(""); });
on("drop", (event) => {
    hint("");
    if (!hasFiles(event)) return;
    event.preventDefault();  // or the browser would open the file in place of the page
    event.stopImmediatePropagation();
    event.target.dispatchEvent(new DragEvent("dragleave", { bubbles: true }));  // for stock fields
    const files = [...event.dataTransfer.files];
    const field = event.target.closest?.(FIELDS);
    if (files.length && !isDialogOpen()) place(files, field?.id);
});
