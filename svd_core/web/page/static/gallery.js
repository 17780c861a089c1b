// Tiles play while they are in sight, unless the visitor wants less motion. Their buttons report
// "chosen" with the action and the job.

const calm = matchMedia("(prefers-reduced-motion: reduce)");
const sight = new IntersectionObserver((seen) => seen.forEach(({ target, isIntersecting }) => {
    if (isIntersecting && !calm.matches) target.play().catch(() => {});
    else target.pause();
}));
const wake = () => element.querySelectorAll("video").forEach((video) => sight.observe(video));
element.addEventListener("click", (event) => {
    const button = event.target.closest("button[data-do]");
    if (!button || (button.dataset.sure && !confirm(button.dataset.sure))) return;
    trigger("chosen", { what: button.dataset.do, job: button.dataset.job });
});
watch("value", wake);
wake();
