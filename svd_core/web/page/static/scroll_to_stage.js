() => {
    const { top, bottom } = document.getElementById("stage").getBoundingClientRect();
    if (top >= 0 && bottom <= innerHeight) return;
    const calm = matchMedia("(prefers-reduced-motion: reduce)").matches;
    const behavior = calm ? "auto" : "smooth";
    document.getElementById("output").scrollIntoView({ block: "start", behavior });
}
