// 16-bit floats (IEEE 754), rounded to nearest, ties to even, as numpy rounds them.

const float = new Float32Array(1);
const bits = new Uint32Array(float.buffer);

// numbers: of any kind. Beyond the largest, 65504, they are cut to it.
export function toHalves(numbers) {
  return Uint16Array.from(numbers, (x) => {
    float[0] = Math.min(Math.max(x, -65504), 65504);
    const sign = (bits[0] >>> 16) & 0x8000;
    const size = Math.abs(float[0]);
    // A number below 2^-14 counts in steps of 2^-24, any other in steps of 2^-10 of its power of two.
    const exponent = Math.max(size === 0 ? -14 : Math.floor(Math.log2(size)), -14);
    const power = size >= 2 ** (exponent + 1) ? exponent + 1 : size < 2 ** exponent && exponent > -14 ? exponent - 1 : exponent;
    const steps = even(size / 2 ** (power - 10));
    return sign | (steps + (power + 14) * 1024);
  });
}

export function fromHalves(halves) {
  return Float32Array.from(halves, (half) => {
    const sign = half & 0x8000 ? -1 : 1;
    const exponent = (half >> 10) & 31;
    const fraction = half & 1023;
    return sign * (exponent === 0 ? fraction * 2 ** -24 : (1024 + fraction) * 2 ** (exponent - 25));
  });
}

function even(x) {
  const low = Math.floor(x);
  const rest = x - low;
  return rest > 0.5 || (rest === 0.5 && low % 2 === 1) ? low + 1 : low;
}
