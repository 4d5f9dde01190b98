// Token ids to text, for byte-level BPE: every entry of the vocabulary spells bytes.
#pragma once

#include <stdint.h>

#include <string>
#include <vector>

#include "json.h"

namespace bitmar {

class Detokenizer {
 public:
  // tokenizer: a tokenizer.json. Throws std::invalid_argument for another kind of tokenizer.
  Detokenizer(const Json& tokenizer, int vocabulary);

  // The bytes that the ids spell; special tokens spell none. Half a character at the end stays half.
  std::string operator()(const std::vector<int64_t>& ids) const;

 private:
  std::vector<std::string> spelled_;
};

}  // namespace bitmar
