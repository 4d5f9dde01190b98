// Keys and values that attention reads: a layer's ring of tokens, a picture, the slots of a memory.
#pragma once

#include <algorithm>

#include "buffer.h"
#include "kernels.h"

namespace bitmar {

class KeyValue {
 public:
  KeyValue() = default;
  KeyValue(int heads, int head_dim, int tokens, bool int16)
      : heads_(heads), head_dim_(head_dim), capacity_(round_up(tokens, kLanes)), int16_(int16) {
    const size_t places = static_cast<size_t>(heads) * capacity_, bytes = int16 ? 2 : 1;
    keys_ = Buffer<char>(places * head_dim * bytes);
    values_ = Buffer<char>(places * round_up(head_dim, kLanes) * bytes);
    key_scale_ = Buffer<float>(places);
    value_scale_ = Buffer<float>(places);
  }

  KeyValueView view() const {
    // Kernels write through a view in `store` only.
    return {const_cast<char*>(keys_.data()),
            const_cast<char*>(values_.data()),
            const_cast<float*>(key_scale_.data()),
            const_cast<float*>(value_scale_.data()),
            heads_,
            head_dim_,
            capacity_,
            int16_};
  }

  // The same with room for `tokens`, the first `used` places kept.
  KeyValue resized(int tokens, int used) const {
    KeyValue copy(heads_, head_dim_, tokens, int16_);
    const size_t places = round_up(used, kLanes), bytes = int16_ ? 2 : 1;
    const size_t key_bytes = head_dim_ * bytes, value_bytes = round_up(head_dim_, kLanes) * bytes;
    for (int h = 0; h < heads_; h++) {
      const size_t from = static_cast<size_t>(h) * capacity_, to = static_cast<size_t>(h) * copy.capacity_;
      std::copy_n(keys_.data() + from * key_bytes, places * key_bytes, copy.keys_.data() + to * key_bytes);
      std::copy_n(values_.data() + from * value_bytes, places * value_bytes, copy.values_.data() + to * value_bytes);
      std::copy_n(key_scale_.data() + from, places, copy.key_scale_.data() + to);
      std::copy_n(value_scale_.data() + from, places, copy.value_scale_.data() + to);
    }
    return copy;
  }

  size_t bytes() const { return keys_.size() + values_.size() + 2 * key_scale_.size() * sizeof(float); }
  int capacity() const { return capacity_; }
  int head_dim() const { return head_dim_; }
  bool int16() const { return int16_; }

 private:
  int heads_ = 0, head_dim_ = 0, capacity_ = 0;
  bool int16_ = false;
  Buffer<char> keys_, values_;
  Buffer<float> key_scale_, value_scale_;
};

// Room for one `attend` over this view.
inline void* scratch_for(Buffer<char>& buffer, const KeyValueView& kv) { return buffer.reserve(attend_scratch(kv)); }

}  // namespace bitmar
