// A photo from this device's camera, or what it sees described again and again: a viewer where the browser allows it, its own
// camera app elsewhere.

const viewer = document.querySelector("#viewer");
const video = document.querySelector("#video");
const live = document.querySelector("#live");
const seen = document.querySelector("#seen");
let stream = null;

// `taken` is given a File; `describe`, given one, promises a caption. Resolves to false where there is no camera to be had.
export async function photograph(taken, describe) {
  if (!navigator.mediaDevices?.getUserMedia) return false;
  try {
    stream = await navigator.mediaDevices.getUserMedia({ video: { facingMode: "environment" }, audio: false });
  } catch {
    return false;
  }
  video.srcObject = stream;
  viewer.showModal();
  document.querySelector("#shoot").onclick = async () => {
    const file = await frame();
    viewer.close();
    if (file) taken(file);
  };
  live.onclick = () => {
    if (press(live.getAttribute("aria-pressed") !== "true")) watch(describe);
  };
  return true;
}

function press(on) {
  live.setAttribute("aria-pressed", on);
  seen.textContent = "";
  seen.hidden = !on;
  return on;
}

// One frame after the other, as fast as they are described.
async function watch(describe) {
  try {
    for (const watched = stream; watched === stream && live.getAttribute("aria-pressed") === "true"; ) {
      const file = await frame();
      const text = file ? await describe(file) : "";
      if (text && text !== seen.textContent) seen.textContent = text; // said by screen readers only when it changes
      await new Promise(requestAnimationFrame);
    }
  } catch (error) {
    seen.textContent = error.message;
    live.setAttribute("aria-pressed", false);
  }
}

async function frame() {
  const canvas = document.createElement("canvas");
  canvas.width = video.videoWidth;
  canvas.height = video.videoHeight;
  canvas.getContext("2d").drawImage(video, 0, 0);
  const blob = await new Promise((resolve) => canvas.toBlob(resolve, "image/jpeg", 0.92));
  return blob && new File([blob], "camera.jpg", { type: blob.type });
}

document.querySelector("#leave").onclick = () => viewer.close();
viewer.addEventListener("close", () => {
  press(false);
  for (const track of stream?.getTracks() ?? []) track.stop();
  video.srcObject = stream = null;
});
