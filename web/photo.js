// From whatever holds a photo to its pixels, RGBA, as `bitmar caption` sees them: upright, without colour management, on white.

import { BitMarError } from "./engine.js";

const MOST = 64_000_000; // pixels

// photo: RGBA or RGB pixels as { data, width, height }, which is all that Node can give; in a browser also a Blob, an image
// element, a video, a canvas, or anything else that createImageBitmap takes.
export async function pixelsOf(photo) {
  if (photo?.data instanceof Uint8Array || photo?.data instanceof Uint8ClampedArray) return checked(photo);
  if (typeof createImageBitmap !== "function") {
    throw new BitMarError("Here a photo is { data, width, height } with RGB or RGBA bytes: decode its file first.");
  }
  let bitmap;
  try {
    bitmap = await createImageBitmap(photo, { colorSpaceConversion: "none" });
  } catch (error) {
    throw new BitMarError("This is not a picture that the browser can read: use JPEG, PNG or WebP.", { cause: error });
  }
  const { width, height } = bitmap;
  try {
    checkSize(width, height);
    const context = new OffscreenCanvas(width, height).getContext("2d", { alpha: false, willReadFrequently: true });
    context.fillStyle = "white";
    context.fillRect(0, 0, width, height);
    context.drawImage(bitmap, 0, 0);
    return context.getImageData(0, 0, width, height);
  } finally {
    bitmap.close();
  }
}

function checked({ data, width, height }) {
  checkSize(width, height);
  if (data.length === 4 * width * height) return { data, width, height };
  if (data.length !== 3 * width * height) {
    throw new BitMarError(`A photo of ${width} x ${height} has 3 or 4 bytes a pixel, not ${data.length} in all.`);
  }
  const whole = new Uint8ClampedArray(4 * width * height).fill(255);
  for (let i = 0; i < width * height; i++) {
    for (let c = 0; c < 3; c++) whole[4 * i + c] = data[3 * i + c];
  }
  return { data: whole, width, height };
}

function checkSize(width, height) {
  if (!(Number.isInteger(width) && Number.isInteger(height) && width > 0 && height > 0)) {
    throw new BitMarError(`A photo of ${width} x ${height} pixels shows nothing.`);
  }
  if (width * height > MOST) {
    throw new BitMarError(`${width} x ${height} pixels are more than the 64 megapixels that are read: make the photo smaller.`);
  }
}
