/* Multiply-adds a second of one core at best: twelve chains of one instruction, all in registers. */
#include <immintrin.h>
#include <stdio.h>
#include <time.h>

enum { ROUNDS = 30000000, CHAINS = 12, TURNS = 5 };

static double cpu_seconds(void) {
  struct timespec now;
  clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &now);
  return now.tv_sec + 1e-9 * now.tv_nsec;
}

/* The empty statement keeps the compiler from seeing that the chains could be computed at once. */
#define MEASURE(NAME, VECTOR, START, A, B, STEP)              \
  static double NAME(void) {                                  \
    VECTOR sums[CHAINS], a = A, b = B;                        \
    _Pragma("GCC unroll 12") for (int i = 0; i < CHAINS; i++) sums[i] = START(i); \
    double began = cpu_seconds();                             \
    for (long round = 0; round < ROUNDS; round++) {           \
      _Pragma("GCC unroll 12") for (int i = 0; i < CHAINS; i++) { \
        sums[i] = STEP;                                       \
        __asm__ volatile("" : "+v"(sums[i]));                 \
      }                                                       \
    }                                                         \
    return (double)ROUNDS * CHAINS / (cpu_seconds() - began); \
  }

MEASURE(int8_rate, __m512i, _mm512_set1_epi32,
        _mm512_set1_epi8(1), _mm512_set1_epi8(2), _mm512_dpbusd_epi32(sums[i], a, b))
MEASURE(float_rate, __m512, _mm512_set1_ps,
        _mm512_set1_ps(1), _mm512_set1_ps(1e-9f), _mm512_fmadd_ps(a, b, sums[i]))

int main(void) {
  double int8 = 0, single = 0;
  for (int turn = 0; turn < TURNS; turn++) {
    double rate = 64 * int8_rate();
    if (rate > int8) int8 = rate;
    rate = 16 * float_rate();
    if (rate > single) single = rate;
  }
  printf("%.0f %.0f\n", int8, single);
  return 0;
}
