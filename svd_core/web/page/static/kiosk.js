/**
 * Kiosk mode: a dialog that plays one example after the other.
 *
 * It runs in the browser alone, so a busy server does not stop it.
 */

const STAY_S = 8;  // an example plays for 8 seconds, and three times as long if it was chosen
const dialog = element.querySelector("dialog");
const video = dialog.querySelector("video");
const buttons = [...dialog.querySelectorAll("[data-video]")];
let timer = 0;
// URL of the example with in-between frames, once the server has made that file.
const smooth = (button) => [...document.querySelectorAll("#demo-files [data-name]")]
    .find((file) => file.dataset.name === button.dataset.name)?.dataset.video;
const show = (button, seconds) => {
    buttons.forEach((each) => each.toggleAttribute("aria-current", each === button));
    video.src = smooth(button) ?? button.dataset.video;
    video.setAttribute("aria-label", button.textContent.trim());
    video.play().catch(() => {});
    button.scrollIntoView({ block: "nearest", inline: "center" });
    clearTimeout(timer);
    timer = setTimeout(next, 1000 * seconds);
};
const next = () => {
    const at = buttons.findIndex((each) => each.hasAttribute("aria-current"));
    show(buttons[(at + 1) % buttons.length], STAY_S);
};
const open = () => {
    trigger("opened");
    dialog.showModal();
    next();
};
dialog.addEventListener("close", () => { clearTimeout(timer); video.pause(); });
dialog.querySelector(".svd-leave").addEventListener("click", () => dialog.close());
buttons.forEach((each) => each.addEventListener("click", () => show(each, 3 * STAY_S)));
document.addEventListener("click", (event) => {
    if (event.target.closest("#demo-switch")) open();
});
if (new URLSearchParams(location.search).has("demo")) open();
