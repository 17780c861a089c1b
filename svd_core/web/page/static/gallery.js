/**
 * Gallery tiles: they play while they are in sight, unless the visitor prefers reduced motion.
 *
 * The event "chosen" reports the action of a button and its job.
 */

const reducedMotion = matchMedia("(prefers-reduced-motion: reduce)");
const observer = new IntersectionObserver((entries) => {
    for (const { target, isIntersecting } of entries) {
        if (isIntersecting && !reducedMotion.matches) target.play().catch(() => {});
        else target.pause();
    }
});
const observe = () => element.querySelectorAll("video").forEach((video) => observer.observe(video));
element.addEventListener("click", (event) => {
    const button = event.target.closest("button[data-do]");
    if (!button || (button.dataset.sure && !confirm(button.dataset.sure))) return;
    trigger("chosen", { what: button.dataset.do, job: button.dataset.job });
});
watch("value", observe);
observe();
