// The crop window over the photo: moved by drag, click and arrow keys.
//
// The server draws the window. Where there is room to move it, the element around it carries
// data-axis ("x" or "y"), data-room (the part of that side that is cut off, 0..1) and data-focus
// (where in that room the window lies, 0..1). One event, "moved", reports a new focus.

const DRAG_PX = 4;      // a pointer that moves less was a click
const KEY_DELAY = 250;  // milliseconds after the last key before the server is asked
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

// Where the pointer is along the axis, as a part of the photo's side.
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
    timer = setTimeout(report, KEY_DELAY);
});
