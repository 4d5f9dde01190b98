#include "model_file.h"

#include <utility>

namespace bitmar {
namespace {

[[noreturn]] void damaged(const std::string& what) {
  throw std::invalid_argument("this is no .bitmar file, or a damaged one: " + what);
}

// The length of the header that follows it: 8 bytes, the lowest first.
size_t header_length(const Buffer<char>& bytes) {
  uint64_t length = 0;
  if (bytes.size() < 8) damaged("it is too short");
  for (int i = 7; i >= 0; i--) length = length << 8 | static_cast<uint8_t>(bytes[i]);
  if (length > bytes.size() - 8 || length % 8) damaged("its header does not fit it");
  return length;
}

Json read_header(const Buffer<char>& bytes) {
  const Json header = Json::parse(std::string(bytes.data() + 8, header_length(bytes)));
  const Json& metadata = header.at("__metadata__");
  if (metadata.get<std::string>("format") != "bitmar") damaged("its format has another name");
  const std::string version = metadata.get<std::string>("format_version");
  if (version.size() > 1 || version > "3")
    throw std::invalid_argument("its format is of version " + version + ", and this program reads up to 3");
  return header;
}

Json document(const Json& header, const char* name) { return Json::parse(header.at("__metadata__").get<std::string>(name)); }

Weights tensors(const Json& header, const Buffer<char>& bytes) {
  struct Type {
    const char* name;
    char letter;
    int64_t bytes;
  };
  static constexpr Type kTypes[] = {{"U8", 'u', 1}, {"I8", 'i', 1}, {"I32", 'w', 4}, {"F32", 'f', 4}};
  const size_t start = 8 + header_length(bytes);
  const auto room = static_cast<int64_t>(bytes.size() - start);
  std::map<std::string, Tensor> found;
  for (const auto& [name, place] : header.names()) {
    if (name == "__metadata__") continue;
    const Json& entry = header.items()[place];
    const Type* type = nullptr;
    for (const Type& each : kTypes)
      if (entry.get<std::string>("dtype") == each.name) type = &each;
    const std::vector<int> offsets = entry.get<std::vector<int>>("data_offsets");
    if (type == nullptr || offsets.size() != 2) damaged("the entry of the tensor " + name);
    const int64_t first = offsets[0], last = offsets[1];
    int64_t size = type->bytes;
    Tensor tensor{bytes.data() + start + first, type->letter, {}};
    for (int n : entry.get<std::vector<int>>("shape")) {
      if (n < 0 || (n > 0 && size > room / n)) damaged("the shape of the tensor " + name);
      tensor.shape.push_back(n), size *= n;
    }
    if (first < 0 || first > last || last > room || last - first != size || first % type->bytes)
      damaged("the place of the tensor " + name);
    found.emplace(name, std::move(tensor));
  }
  return Weights(std::move(found));
}

}  // namespace

ModelFile::ModelFile(Buffer<char> bytes)
    : bytes_(std::move(bytes)),
      header_(read_header(bytes_)),
      weights(tensors(header_, bytes_)),
      config(document(header_, "config")),
      vision(document(header_, "vision")),
      tokenizer(document(header_, "tokenizer")) {}

}  // namespace bitmar
