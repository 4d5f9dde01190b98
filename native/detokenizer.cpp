#include "detokenizer.h"

#include <map>

namespace bitmar {
namespace {

// The byte that each character of the vocabulary stands for: itself where it can be seen, else the next free one from
// U+0100 on, as in GPT-2.
std::map<uint32_t, char> bytes_of_characters() {
  std::map<uint32_t, char> found;
  uint32_t free = 0x100;
  for (uint32_t byte = 0; byte < 256; byte++) {
    const bool seen = (byte >= '!' && byte <= '~') || (byte >= 0xa1 && byte != 0xad);
    found[seen ? byte : free++] = static_cast<char>(byte);
  }
  return found;
}

// The bytes of an entry. One with a character that stands for no byte is a text of its own and stays as it is.
std::string spell(const std::string& entry, const std::map<uint32_t, char>& bytes) {
  std::string text;
  for (size_t i = 0; i < entry.size(); i++) {
    uint32_t character = static_cast<uint8_t>(entry[i]);
    if (character >> 5 == 6 && i + 1 < entry.size())  // two bytes of UTF-8: no character that counts has more
      character = (character & 0x1f) << 6 | (static_cast<uint8_t>(entry[++i]) & 0x3f);
    else if (character >= 0x80)
      return entry;
    const auto found = bytes.find(character);
    if (found == bytes.end()) return entry;
    text += found->second;
  }
  return text;
}

}  // namespace

Detokenizer::Detokenizer(const Json& tokenizer, int vocabulary) : spelled_(vocabulary) {
  if (tokenizer.at("decoder").get<std::string>("type") != "ByteLevel")
    throw std::invalid_argument("its tokenizer is not byte-level");
  const auto bytes = bytes_of_characters();
  const auto entry = [this](int64_t id) -> std::string& {
    if (id < 0 || id >= static_cast<int64_t>(spelled_.size()))
      throw std::invalid_argument("its tokenizer has more tokens than the model");
    return spelled_[id];
  };
  const Json& entries = tokenizer.at("model").at("vocab");
  for (const auto& [text, place] : entries.names()) entry(entries.items()[place].whole()) = spell(text, bytes);
  for (const Json& added : tokenizer.list("added_tokens"))
    entry(added.at("id").whole()) = added.at("special").truth() ? "" : spell(added.get<std::string>("content"), bytes);
}

std::string Detokenizer::operator()(const std::vector<int64_t>& ids) const {
  std::string text;
  for (int64_t id : ids) text += spelled_.at(id);
  return text;
}

}  // namespace bitmar
