// AVX-512 with AMX: what avx512.cpp does, and the products of many tokens as whole matrices.
#define BITMAR_AMX
#include "avx512.cpp"
