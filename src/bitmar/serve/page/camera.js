// A photo from this device's camera: a viewer where the browser allows it, its own camera app elsewhere.

const viewer = document.querySelector("#viewer");
const video = document.querySelector("#video");
let stream = null;

// `taken` is given a File. Resolves to false where there is no camera to be had.
export async function photograph(taken) {
  if (!navigator.mediaDevices?.getUserMedia) return false;
  try {
    stream = await navigator.mediaDevices.getUserMedia({ video: { facingMode: "environment" }, audio: false });
  } catch {
    return false;
  }
  video.srcObject = stream;
  viewer.showModal();
  document.querySelector("#shoot").onclick = async () => {
    const canvas = document.createElement("canvas");
    canvas.width = video.videoWidth;
    canvas.height = video.videoHeight;
    canvas.getContext("2d").drawImage(video, 0, 0);
    const blob = await new Promise((resolve) => canvas.toBlob(resolve, "image/jpeg", 0.92));
    viewer.close();
    if (blob) taken(new File([blob], "camera.jpg", { type: blob.type }));
  };
  return true;
}

document.querySelector("#leave").onclick = () => viewer.close();
viewer.addEventListener("close", () => {
  for (const track of stream?.getTracks() ?? []) track.stop();
  video.srcObject = stream = null;
});
