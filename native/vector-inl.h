// Sixteen floats, or sixteen int32, in as many registers as they need. Part of body-inl.h, so everything in it holds here.
#pragma once

#define BITMAR_INLINE static inline __attribute__((always_inline))

// Sixteen floats in as many registers as they need.
typedef float Register __attribute__((vector_size(4 * BITMAR_WIDTH)));
typedef int32_t IntRegister __attribute__((vector_size(4 * BITMAR_WIDTH)));
constexpr int kRegisters = 16 / BITMAR_WIDTH;

struct Vector {
  Register part[kRegisters];
};

// Register by register, here and below: compilers keep a copied struct of several in memory.
BITMAR_INLINE Vector load(const float* p) {
  Vector x;
  for (int i = 0; i < kRegisters; i++) memcpy(&x.part[i], p + i * BITMAR_WIDTH, sizeof(Register));
  return x;
}

BITMAR_INLINE void store(float* p, const Vector& x) {
  for (int i = 0; i < kRegisters; i++) memcpy(p + i * BITMAR_WIDTH, &x.part[i], sizeof(Register));
}

BITMAR_INLINE Vector splat(float value) {
  Vector x;
  for (int i = 0; i < kRegisters; i++) x.part[i] = value - Register{};
  return x;
}

#define BITMAR_OPERATOR(op)                                                  \
  BITMAR_INLINE Vector operator op(const Vector& a, const Vector& b) {       \
    Vector c;                                                                \
    for (int i = 0; i < kRegisters; i++) c.part[i] = a.part[i] op b.part[i]; \
    return c;                                                                \
  }
BITMAR_OPERATOR(+)
BITMAR_OPERATOR(-)
BITMAR_OPERATOR(*)
BITMAR_OPERATOR(/)
#undef BITMAR_OPERATOR

// The first of the two where it is larger, else the second; compilers make two instructions of that where x86 has one.
BITMAR_INLINE Register max(Register a, Register b) {
#if BITMAR_WIDTH == 16
  return _mm512_max_ps(a, b);
#elif BITMAR_WIDTH == 8
  return _mm256_max_ps(a, b);
#else
  return a > b ? a : b;
#endif
}

BITMAR_INLINE Register min(Register a, Register b) {
#if BITMAR_WIDTH == 16
  return _mm512_min_ps(a, b);
#elif BITMAR_WIDTH == 8
  return _mm256_min_ps(a, b);
#else
  return a < b ? a : b;
#endif
}

BITMAR_INLINE Vector max(const Vector& a, const Vector& b) {
  Vector c;
  for (int i = 0; i < kRegisters; i++) c.part[i] = max(a.part[i], b.part[i]);
  return c;
}

BITMAR_INLINE Vector min(const Vector& a, const Vector& b) {
  Vector c;
  for (int i = 0; i < kRegisters; i++) c.part[i] = min(a.part[i], b.part[i]);
  return c;
}

BITMAR_INLINE Vector abs(const Vector& a) {
  Vector c;
  for (int i = 0; i < kRegisters; i++) c.part[i] = (Register)((IntRegister)a.part[i] & 0x7fffffff);
  return c;
}

// Adding 1.5 * 2^23 leaves the nearest integer, ties to even, in the low bits of a float below 2^22.
constexpr float kRounder = 12582912.0f;

struct Ints {
  IntRegister part[kRegisters];
};

BITMAR_INLINE Ints rounded(const Vector& x) {
  Ints y;
  for (int i = 0; i < kRegisters; i++) y.part[i] = (IntRegister)(x.part[i] + kRounder) - (IntRegister)(kRounder - Register{});
  return y;
}

// Sixteen integers as int8 or int16, by their low bits.
template <typename T>
BITMAR_INLINE void narrow(const Ints& x, T* p) {
  typedef T Narrow __attribute__((vector_size(sizeof(T) * BITMAR_WIDTH)));
  for (int i = 0; i < kRegisters; i++) {
    const Narrow y = __builtin_convertvector(x.part[i], Narrow);
    memcpy(p + i * BITMAR_WIDTH, &y, sizeof y);
  }
}

BITMAR_INLINE Vector to_float(const Ints& x) {
  Vector y;
  for (int i = 0; i < kRegisters; i++) y.part[i] = __builtin_convertvector(x.part[i], Register);
  return y;
}

// Accumulators of `add_pairs` are 16 int32 in whatever form the instruction set likes.
BITMAR_INLINE Ints ints(const Sum& x) {
  static_assert(sizeof(Sum) == sizeof(Ints), "sixteen int32");
  Ints y;
  memcpy(&y, &x, sizeof y);
  return y;
}

BITMAR_INLINE Ints operator+(const Ints& a, const Ints& b) {
  Ints c;
  for (int i = 0; i < kRegisters; i++) c.part[i] = a.part[i] + b.part[i];
  return c;
}

BITMAR_INLINE Vector from_ints(const int32_t* p) {
  Vector x;
  for (int i = 0; i < kRegisters; i++) {
    IntRegister bits;
    memcpy(&bits, p + i * BITMAR_WIDTH, sizeof bits);
    x.part[i] = __builtin_convertvector(bits, Register);
  }
  return x;
}

// e^x to about 1 ulp (Cephes' polynomial); 0 and infinity are not reached, arguments are cut to [-87, 88].
BITMAR_INLINE Vector exponential(Vector x) {
  x = min(max(x, splat(-87.0f)), splat(88.0f));
  const Vector turns = x * splat(1.44269504f);
  Vector y;
  for (int i = 0; i < kRegisters; i++) {
    const Register whole = turns.part[i] + kRounder;
    const IntRegister exponent = (IntRegister)whole << 23;
    const Register n = whole - kRounder;
    const Register r = x.part[i] - n * 0.693359375f - n * -2.12194440e-4f;
    Register p = r * 1.9875691500e-4f + 1.3981999507e-3f;
    p = p * r + 8.3334519073e-3f;
    p = p * r + 4.1665795894e-2f;
    p = p * r + 1.6666665459e-1f;
    p = p * r + 5.0000001201e-1f;
    p = p * (r * r) + r + 1.0f;
    y.part[i] = (Register)((IntRegister)p + exponent);
  }
  return y;
}

// 2^x of an x <= 0 to 3e-6, a fifth of what rounding to int16 may cost. It goes down to 2^-50: far below, products would
// become subnormal, for which processors take a hundred times as long.
BITMAR_INLINE Vector power_of_two(const Vector& x) {
  Vector y;
  for (int i = 0; i < kRegisters; i++) {
    const Register cut = max(x.part[i], -50.0f - Register{}), whole = cut + kRounder, r = cut - (whole - kRounder);
    Register p = r * 0.0095810471f + 0.055905972f;
    p = p * r + 0.24024145f;
    p = p * r + 0.69312435f;
    p = p * r + 1.0f;
    y.part[i] = (Register)((IntRegister)p + ((IntRegister)whole << 23));
  }
  return y;
}

// Folds sixteen lanes in halves, 8 on 8, 4 on 4, ...: one order of additions whatever the registers' width.
template <typename F>
BITMAR_INLINE float fold(Vector x, F f) {
  for (int half = kRegisters / 2; half; half /= 2)
    for (int i = 0; i < half; i++) x.part[i] = f(x.part[i], x.part[i + half]);
  Register r = x.part[0];
#if BITMAR_WIDTH == 16
  r = f(r, __builtin_shufflevector(r, r, 8, 9, 10, 11, 12, 13, 14, 15, 0, 1, 2, 3, 4, 5, 6, 7));
  r = f(r, __builtin_shufflevector(r, r, 4, 5, 6, 7, 0, 1, 2, 3, 4, 5, 6, 7, 0, 1, 2, 3));
  r = f(r, __builtin_shufflevector(r, r, 2, 3, 0, 1, 2, 3, 0, 1, 2, 3, 0, 1, 2, 3, 0, 1));
#elif BITMAR_WIDTH == 8
  r = f(r, __builtin_shufflevector(r, r, 4, 5, 6, 7, 0, 1, 2, 3));
  r = f(r, __builtin_shufflevector(r, r, 2, 3, 0, 1, 2, 3, 0, 1));
#else
  r = f(r, __builtin_shufflevector(r, r, 2, 3, 0, 1));
#endif
  return f(r, Register{} + r[1])[0];
}

BITMAR_INLINE float lanes_sum(const Vector& x) {
  return fold(x, [](Register a, Register b) __attribute__((always_inline)) { return a + b; });
}

BITMAR_INLINE float lanes_max(const Vector& x) {
  return fold(x, [](Register a, Register b) __attribute__((always_inline)) { return max(a, b); });
}

// The last, partial vector of n floats, filled up with zeros.
BITMAR_INLINE Vector load_tail(const float* x, int n) {
  float v[16] = {0};
  memcpy(v, x, sizeof(float) * (n & 15));
  return load(v);
}

// The first `left` of the sixteen, or all.
BITMAR_INLINE void store_some(float* p, const Vector& x, int left) {
  if (left >= 16) {
    store(p, x);
  } else {
    float tail[16];
    store(tail, x);
    memcpy(p, tail, sizeof(float) * left);
  }
}

// The larger of two that are not negative. Their bits are ordered as they are, and NaN above all: it is never lost.
BITMAR_INLINE Register max_bits(Register a, Register b) {
  const IntRegister x = (IntRegister)a, y = (IntRegister)b;
  return (Register)(x > y ? x : y);
}

BITMAR_INLINE Vector max_bits(const Vector& a, const Vector& b) {
  Vector c;
  for (int i = 0; i < kRegisters; i++) c.part[i] = max_bits(a.part[i], b.part[i]);
  return c;
}

// NaN if one of them is.
BITMAR_INLINE float max_abs(const float* x, int n) {
  Vector most[4] = {splat(0.0f), splat(0.0f), splat(0.0f), splat(0.0f)};  // so that comparisons need not wait for each other
  int i = 0;
  for (; i + 64 <= n; i += 64)
    for (int j = 0; j < 4; j++) most[j] = max_bits(abs(load(x + i + j * 16)), most[j]);
  for (; i + 16 <= n; i += 16) most[0] = max_bits(abs(load(x + i)), most[0]);
  if (i < n) most[1] = max_bits(abs(load_tail(x + i, n)), most[1]);
  return fold(max_bits(max_bits(most[0], most[1]), max_bits(most[2], most[3])),
              [](Register a, Register b) __attribute__((always_inline)) { return max_bits(a, b); });
}
