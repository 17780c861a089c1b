/** Drafts of the seed grid: the event "picked" reports the job of the chosen one. */

element.addEventListener("click", (event) => {
    const button = event.target.closest("button[data-job]");
    if (button) trigger("picked", { job: button.dataset.job });
});
