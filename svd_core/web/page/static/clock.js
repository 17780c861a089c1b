/**
 * Clock of the progress line: elapsed and remaining seconds, and the bar, between two events.
 *
 * The server sends ".svd-clock" elements with data-elapsed and data-remaining in seconds (empty:
 * unknown). They are not live regions, so that a screen reader reads the stage, not every second.
 */

const SENTENCES = {};    // by language and key; the server fills them in
const REFRESH_MS = 250;
const LATE_SHARE = 0.25;  // share of the expected time by which the work may be late
const language = navigator.languages.map((code) => code.split("-")[0].toLowerCase())
    .find((code) => code in SENTENCES) ?? "en";
const sentences = SENTENCES[language];
const lastValues = new WeakMap();  // clock -> the server's last values, and when they came

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
    const values = `${elapsed}/${remaining}`;
    const last = lastValues.get(clock);
    if (last?.values !== values) {
        lastValues.set(clock, { values, since: performance.now() });
        return;
    }
    const passed = (performance.now() - last.since) / 1000;
    if (passed < 1) return;
    const now = Number(elapsed) + passed;
    const left = number(remaining) === null ? null : number(remaining) - passed;
    const parts = [fill(sentences.elapsed, { elapsed: duration(now) })];
    if (left !== null && left >= 1) {
        parts.push(fill(sentences.left, { left: duration(left) }));
    } else if (left !== null) {
        parts.push(-left > LATE_SHARE * (now + left) ? sentences.late : sentences.almost);
    }
    const text = parts.join(" · ");
    if (clock.textContent !== text) clock.textContent = text;
    const bar = clock.parentElement.querySelector("progress[value]");
    if (bar && left !== null) bar.value = Math.min(0.99, now / Math.max(now + left, now));
};
setInterval(() => document.querySelectorAll(".svd-clock").forEach(tick), REFRESH_MS);
