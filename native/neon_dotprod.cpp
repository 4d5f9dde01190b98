// The same with the dot-product instruction of Armv8.2.
#define BITMAR_DOTPROD
#include "neon.cpp"
