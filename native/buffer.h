// Memory on cache lines. Fresh memory is zero and, where it is large, not touched before it is used. Kernels may read 64
// bytes after its end.
#pragma once

#include <stdint.h>
#include <stdlib.h>

#include <new>
#include <utility>

namespace bitmar {

template <typename T>
class Buffer {
 public:
  Buffer() = default;
  explicit Buffer(size_t size) : size_(size) {
    // calloc gives large blocks straight from the operating system, untouched; it aligns to 16 bytes, so 64 are added.
    raw_ = calloc(size * sizeof(T) + 64 + 64, 1);
    if (raw_ == nullptr) throw std::bad_alloc();
    data_ = reinterpret_cast<T*>((reinterpret_cast<uintptr_t>(raw_) + 63) & ~static_cast<uintptr_t>(63));
  }
  Buffer(Buffer&& other) noexcept { swap(other); }
  Buffer& operator=(Buffer&& other) noexcept {
    swap(other);
    return *this;
  }
  Buffer(const Buffer&) = delete;
  Buffer& operator=(const Buffer&) = delete;
  ~Buffer() { free(raw_); }

  T* data() { return data_; }
  const T* data() const { return data_; }
  size_t size() const { return size_; }
  T& operator[](size_t i) { return data_[i]; }
  const T& operator[](size_t i) const { return data_[i]; }

  // At least `size` elements; what was there is lost when it grows.
  T* reserve(size_t size) {
    if (size > size_) *this = Buffer(size);
    return data_;
  }

 private:
  void swap(Buffer& other) noexcept {
    std::swap(raw_, other.raw_);
    std::swap(data_, other.data_);
    std::swap(size_, other.size_);
  }

  void* raw_ = nullptr;
  T* data_ = nullptr;
  size_t size_ = 0;
};

inline int round_up(int n, int unit) { return (n + unit - 1) / unit * unit; }

}  // namespace bitmar
