/**
 * What this browser lacks: a camera, a clipboard to read, or storage.
 *
 * Buttons for what it lacks are hidden. Over plain HTTP that is both of them, and in the frame of
 * another site it depends on that site.
 */

const page = document.getElementById("studio");
const showCamera = async () => {
    let devices = [];
    try {
        devices = await navigator.mediaDevices.enumerateDevices();
    } catch {
        // This browser lists no devices here.
    }
    page.toggleAttribute("data-camera", devices.some(({ kind }) => kind === "videoinput"));
};
navigator.mediaDevices?.addEventListener("devicechange", showCamera);
showCamera();
page.toggleAttribute("data-clipboard", typeof navigator.clipboard?.read === "function");
try {
    localStorage.setItem("svd-check", "");
    localStorage.removeItem("svd-check");
} catch {
    page.toggleAttribute("data-no-storage", true);
}
