// Codes of 4 or 8 bits to weights, in one pass over memory, on all threads. Shapes are in operators/dequantise.py.
// Each number is one product of a level and a scale, so it has the bits that any other way of computing it gives.

#include <cstdint>

extern "C" {

// levels [16]; the code of weight i is the upper half of byte i / 2 if i is even, else the lower.
void dequantise4(const uint8_t* codes, const float* levels, const float* scales, float* weights, int64_t count,
                 int64_t block) {
  float pairs[512];  // both levels of a byte
  for (int byte = 0; byte < 256; ++byte) {
    pairs[2 * byte] = levels[byte >> 4];
    pairs[2 * byte + 1] = levels[byte & 15];
  }
  const int64_t blocks = (count + block - 1) / block;
#pragma omp parallel for schedule(static)
  for (int64_t number = 0; number < blocks; ++number) {
    const int64_t start = number * block, end = start + block < count ? start + block : count;
    const float scale = scales[number];
    int64_t i = start;
    if (i & 1) {
      weights[i] = levels[codes[i >> 1] & 15] * scale;
      ++i;
    }
    const uint8_t* from = codes + (i >> 1);
    float* to = weights + i;
    const int64_t whole = (end - i) >> 1;
    for (int64_t k = 0; k < whole; ++k) {
      const float* pair = pairs + 2 * from[k];
      to[2 * k] = pair[0] * scale;
      to[2 * k + 1] = pair[1] * scale;
    }
    if ((end - i) & 1) weights[end - 1] = levels[codes[(end - 1) >> 1] >> 4] * scale;
  }
}

// Codes are whole numbers, stored with an offset of 128.
void dequantise8(const uint8_t* codes, const float* scales, float* weights, int64_t count, int64_t block) {
  const int64_t blocks = (count + block - 1) / block;
#pragma omp parallel for schedule(static)
  for (int64_t number = 0; number < blocks; ++number) {
    const int64_t start = number * block, end = start + block < count ? start + block : count;
    const float scale = scales[number];
#pragma omp simd
    for (int64_t i = start; i < end; ++i) weights[i] = static_cast<float>(static_cast<int32_t>(codes[i]) - 128) * scale;
  }
}

}  // extern "C"
