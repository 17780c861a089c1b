/**
 * Crop window over the photo, moved by drag, click and arrow keys.
 *
 * The server draws the window. If it can be moved, the element around it has data-axis ("x" or
 * "y"), data-room (the share of that side that is cut off, 0..1) and data-focus (the place of the
 * window in that room, 0..1). The event "moved" reports a new focus.
 */

const DRAG_PX = 4;         // a shorter movement of the pointer is a click
const KEY_DELAY_MS = 250;  // from the last key to the report
const KEYS = {
    ArrowLeft: -0.04, ArrowUp: -0.04, ArrowRight: 0.04, ArrowDown: 0.04,
    PageUp: -0.2, PageDown: 0.2, Home: -1, End: 1,
};
let drag = null;
let timer = 0;

const area = () => element.querySelector("[data-axis]");
const room = () => Number(area().dataset.room);
const focus = () => Number(area().dataset.focus);

const move = (value) => {
    const next = Math.min(1, Math.max(0, value));
    const side = area().dataset.axis === "x" ? "left" : "top";
    area().querySelector(".svd-window").style[side] = `${100 * room() * next}%`;
    area().dataset.focus = next;
};
const report = () => trigger("moved", { axis: area().dataset.axis, focus: focus() });

// Position of the pointer along the axis, as a share of the photo's side.
const along = (event) => {
    const box = area().getBoundingClientRect();
    return area().dataset.axis === "x"
        ? (event.clientX - box.x) / box.width
        : (event.clientY - box.y) / box.height;
};
const centre = (event) => move((along(event) - (1 - room()) / 2) / room());

element.addEventListener("pointerdown", (event) => {
    if (!area() || event.button || !area().contains(event.target)) return;
    const before = focus();
    const inside = event.target.closest(".svd-window");
    if (!inside) centre(event);
    drag = {
        x: event.clientX,
        y: event.clientY,
        offset: along(event) - room() * focus(),
        moved: !inside,
        before,
    };
    area().setPointerCapture(event.pointerId);
});
element.addEventListener("pointermove", (event) => {
    if (!drag || !area()) return;
    drag.moved ||= Math.hypot(event.clientX - drag.x, event.clientY - drag.y) > DRAG_PX;
    if (drag.moved) move((along(event) - drag.offset) / room());
});
element.addEventListener("pointerup", (event) => {
    if (!drag || !area()) return;
    if (!drag.moved) centre(event);
    drag = null;
    report();
});
element.addEventListener("pointercancel", () => {  // the finger scrolls the page instead
    if (drag && area()) move(drag.before);
    drag = null;
});
element.addEventListener("keydown", (event) => {
    const step = KEYS[event.key];
    if (!step || !area() || !event.target.matches(".svd-window")) return;
    event.preventDefault();
    move(focus() + step);
    clearTimeout(timer);
    timer = setTimeout(report, KEY_DELAY_MS);
});
