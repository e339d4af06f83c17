// Rows shared among threads; every row is computed alone, so the result does not depend on how many there are.
#pragma once
#include <algorithm>
#include <system_error>
#include <thread>
#include <vector>

// One copy of the function for AVX-512, one for AVX2 with FMA and one for any x86-64, chosen when the module is loaded. The levels
// are asked for by what a processor can do; "arch=haswell" would be taken by that one model only, and no AMD would get it.
#if defined(__x86_64__) && defined(__GLIBC__) && defined(__GNUC__) && __GNUC__ >= 12 && !defined(__clang__)
#define MIEN_CLONES __attribute__((target_clones("arch=x86-64-v4", "arch=x86-64-v3", "default")))
#else
#define MIEN_CLONES
#endif
// What a cloned function calls must be inlined into it to be cloned with it.
#if defined(__GNUC__)
#define MIEN_INLINE inline __attribute__((always_inline))
#else
#define MIEN_INLINE inline
#endif

namespace mien {

// Calls body(first, last) on bands of [begin, end) in up to `threads` threads, at least 16 rows each.
template <typename Body>
void for_rows(int threads, int begin, int end, const Body& body) {
    const int rows = end - begin;
    const int bands = std::max(1, std::min(threads, rows / 16));
    std::vector<std::thread> others;
    others.reserve(static_cast<size_t>(bands) - 1);
    for (int band = 1; band < bands; ++band) {
        const int first = begin + rows * band / bands, last = begin + rows * (band + 1) / bands;
        try {
            others.emplace_back(body, first, last);
        } catch (const std::system_error&) {  // no thread to be had: do its rows here
            body(first, last);
        }
    }
    body(begin, begin + rows / bands);
    for (std::thread& other : others) other.join();
}

}  // namespace mien
