// Convolutions over uint8 maps with int8 weights: what they have in common whatever is multiplied. Part of body-inl.h, so
// everything in it holds here.
#pragma once

// Sixteen bytes as integers.
BITMAR_INLINE Ints widen(const uint8_t* p) {
  Ints x;
#if BITMAR_WIDTH == 16
  x.part[0] = (IntRegister)_mm512_cvtepu8_epi32(_mm_loadu_si128((const __m128i*)p));
#elif BITMAR_WIDTH == 8
  for (int i = 0; i < 2; i++) x.part[i] = (IntRegister)_mm256_cvtepu8_epi32(_mm_loadl_epi64((const __m128i*)(p + 8 * i)));
#else
  for (int i = 0; i < 16; i++) x.part[i / 4][i % 4] = p[i];
#endif
  return x;
}

BITMAR_INLINE Ints widen(const int8_t* p) {
  Ints x;
#if BITMAR_WIDTH == 16
  x.part[0] = (IntRegister)_mm512_cvtepi8_epi32(_mm_loadu_si128((const __m128i*)p));
#elif BITMAR_WIDTH == 8
  for (int i = 0; i < 2; i++) x.part[i] = (IntRegister)_mm256_cvtepi8_epi32(_mm_loadl_epi64((const __m128i*)(p + 8 * i)));
#else
  for (int i = 0; i < 16; i++) x.part[i / 4][i % 4] = p[i];
#endif
  return x;
}

BITMAR_INLINE Ints load_ints(const int32_t* p) {
  Ints x;
  for (int i = 0; i < kRegisters; i++) memcpy(&x.part[i], p + i * BITMAR_WIDTH, sizeof(IntRegister));
  return x;
}

BITMAR_INLINE void store_sixteen(const Vector& value, const Steps& steps, uint8_t* y) {
#if BITMAR_WIDTH == 8
  // What is too small, or no number, becomes the smallest integer; packing cuts it to what 16 and then 8 bits hold.
  __m256i whole[2];
  for (int i = 0; i < 2; i++) whole[i] = _mm256_cvtps_epi32(_mm256_min_ps(_mm256_set1_ps(steps.high), value.part[i]));
  const __m256i zero = _mm256_set1_epi16((int16_t)steps.zero);
  const __m256i sixteen = _mm256_adds_epi16(_mm256_packs_epi32(whole[0], whole[1]), zero);  // of 0..3, 8..11, 4..7, 12..15
  const __m128i bytes = _mm_packus_epi16(_mm256_castsi256_si128(sixteen), _mm256_extracti128_si256(sixteen, 1));
  const __m128i low = _mm_set1_epi8((char)((int)steps.low + steps.zero));
  _mm_storeu_si128((__m128i*)y, _mm_max_epu8(_mm_shuffle_epi32(bytes, 0xd8), low));
#else
  Ints whole = rounded(min(max(value, splat(steps.low)), splat(steps.high)));
  for (int i = 0; i < kRegisters; i++) whole.part[i] = whole.part[i] + steps.zero;
  narrow(whole, y);
#endif
}

// The first `left` bytes of the sixteen, or all.
BITMAR_INLINE void store_steps(const Vector& value, const Steps& steps, uint8_t* y, int left) {
  if (left >= 16) {
    store_sixteen(value, steps, y);
    return;
  }
  uint8_t last[16];
  store_sixteen(value, steps, last);
  const uint8_t* from = last;
  // Of fixed sizes, so that nothing is called for a few bytes.
  if (left & 8) memcpy(y, from, 8), y += 8, from += 8;
  if (left & 4) memcpy(y, from, 4), y += 4, from += 4;
  for (int i = 0; i < (left & 3); i++) y[i] = from[i];
}

// What makes steps of the sums of sixteen outputs.
struct Finish {
  Ints start;
  Vector factor;
  Steps steps;
  int left;  // outputs from the first of these on

  template <typename View>
  inline __attribute__((always_inline)) Finish(const View& w, int first)
      : start(load_ints(w.start + first)), factor(load(w.factor + first)), steps(w.steps), left(w.channels - first) {}

  inline __attribute__((always_inline)) void operator()(const Ints& sums, uint8_t* y) const {
    store_steps(to_float(sums + start) * factor, steps, y, left);
  }
};

static void add_maps(const uint8_t* a, int a_zero, float a_factor, const uint8_t* b, int b_zero, float b_factor, int n,
                     const Steps& steps, uint8_t* y) {
  const Vector a_factors = splat(a_factor), b_factors = splat(b_factor);
  for (int i = 0; i < n; i += 16) {
    Ints one = widen(a + i), two = widen(b + i);
    for (int j = 0; j < kRegisters; j++) one.part[j] = one.part[j] - a_zero, two.part[j] = two.part[j] - b_zero;
    store_steps(to_float(one) * a_factors + to_float(two) * b_factors, steps, y + i, n - i);
  }
}

#if defined(BITMAR_PAIRS)
#include "convolve_pairs-inl.h"
#include "winograd-inl.h"
#else
#include "convolve_bytes-inl.h"
#endif
