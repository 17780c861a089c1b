/** Scroll to the stage unless it is in sight. */
() => {
    const { top, bottom } = document.getElementById("stage").getBoundingClientRect();
    if (top >= 0 && bottom <= innerHeight) return;
    const reducedMotion = matchMedia("(prefers-reduced-motion: reduce)").matches;
    const behavior = reducedMotion ? "auto" : "smooth";
    document.getElementById("output").scrollIntoView({ block: "start", behavior });
}
