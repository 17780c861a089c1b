// Progress between two events: the seconds so far and left count on, and the bar moves with them.
//
// The server sends ".svd-clock" elements with data-elapsed and data-remaining in seconds (empty:
// not known). They are no live region, so that a screen reader reads the stage and not every second.

const SENTENCES = {};  // by language and key; the server puts them in
const REFRESH = 250;   // milliseconds
const LATE = 0.25;     // from this part of the expected time on, too much time has passed
const language = navigator.languages.map((code) => code.split("-")[0].toLowerCase())
    .find((code) => code in SENTENCES) ?? "en";
const sentences = SENTENCES[language];
const known = new WeakMap();  // clock -> what the server said last, and when it was seen

const number = (value) => value === "" ? null : Number(value);
const fill = (sentence, values) => sentence.replace(/\{(\w+)\}/g, (_, name) => values[name]);
const duration = (total) => {
    const seconds = Math.round(total);
    if (seconds < 60) return fill(sentences.seconds, { seconds });
    const minutes = Math.floor(seconds / 60);
    if (seconds < 3600) return fill(sentences.minutes, { minutes, seconds: seconds % 60 });
    return fill(sentences.hours, { hours: Math.floor(seconds / 3600), minutes: minutes % 60 });
};
const tick = (clock) => {
    const { elapsed, remaining } = clock.dataset;
    const said = `${elapsed}/${remaining}`;
    const before = known.get(clock);
    if (before?.said !== said) {
        known.set(clock, { said, since: performance.now() });
        return;
    }
    const passed = (performance.now() - before.since) / 1000;
    if (passed < 1) return;
    const now = Number(elapsed) + passed;
    const left = number(remaining) === null ? null : number(remaining) - passed;
    const parts = [fill(sentences.elapsed, { elapsed: duration(now) })];
    if (left !== null && left >= 1) {
        parts.push(fill(sentences.left, { left: duration(left) }));
    } else if (left !== null) {
        parts.push(-left > LATE * (now + left) ? sentences.late : sentences.almost);
    }
    const text = parts.join(" · ");
    if (clock.textContent !== text) clock.textContent = text;
    const bar = clock.parentElement.querySelector("progress[value]");
    if (bar && left !== null) bar.value = Math.min(0.99, now / Math.max(now + left, now));
};
setInterval(() => document.querySelectorAll(".svd-clock").forEach(tick), REFRESH);
