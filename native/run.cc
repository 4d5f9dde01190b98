// bitmar-run MODEL.bitmar PHOTO.ppm: a caption without Python, the words of `bitmar caption --beams 1`. The photo is a raw PPM (P6)
// of any size. BITMAR_KERNEL chooses a path, as everywhere.
#include <ctype.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <fstream>

#include "detokenizer.h"
#include "dispatch.h"
#include "photo_model.h"
#include "resize.h"

namespace bitmar {
namespace {

constexpr int kLongest = 32;  // tokens
constexpr int kMostPixels = 64000000;

Buffer<char> read_file(const std::string& path) {
  std::ifstream file(path, std::ios::binary | std::ios::ate);
  const std::streamoff size = file ? static_cast<std::streamoff>(file.tellg()) : -1;
  if (size < 0 || size > INT64_MAX / 2) throw std::runtime_error(std::string("cannot read it: ") + strerror(errno));
  Buffer<char> bytes(static_cast<size_t>(size));
  file.seekg(0).read(bytes.data(), size);
  if (!file) throw std::runtime_error("cannot read it whole");
  return bytes;
}

// The pixels (size, size, 3) of a raw PPM, squashed. Its header: P6, width, height, 255, with blanks and comments between,
// then one blank.
Buffer<uint8_t> read_photo(const std::string& path, int size) {
  const Buffer<char> file = read_file(path);
  size_t at = 0;
  const auto word = [&] {
    const auto here = [&] { return at < file.size() ? file[at] : '\0'; };
    for (; isspace(static_cast<uint8_t>(here())) || here() == '#'; at++)
      if (here() == '#')
        while (at + 1 < file.size() && file[at] != '\n') at++;
    std::string found;
    while (isgraph(static_cast<uint8_t>(here())) && found.size() < 16) found += file[at++];
    return found;
  };
  const auto side = [&] { return atol(word().c_str()); };
  const std::string kind = word();
  const long width = side(), height = side();
  const std::string most = word(), advice = ": make one by `magick PHOTO -depth 8 photo.ppm`";
  if (kind != "P6" || most != "255") throw std::invalid_argument("this is no raw PPM (P6) of 8 bits" + advice);
  if (width < 1 || height < 1 || width > kMostPixels / height)
    throw std::invalid_argument("this PPM has no pixels, or more than 64 million" + advice);
  const size_t area = static_cast<size_t>(width) * height;
  at++;
  if (file.size() < at || file.size() - at != 3 * area)
    throw std::invalid_argument("this PPM is cut short, or goes on after its photo" + advice);
  Buffer<uint8_t> whole(4 * area), pixels(size_t{3} * size * size);
  for (size_t i = 0; i < area; i++) memcpy(whole.data() + 4 * i, file.data() + at + 3 * i, 3);
  const Buffer<uint8_t> square =
      resize(whole.data(), static_cast<int>(width), static_cast<int>(height), size, size, Filter::kBicubic);
  for (size_t i = 0; i < pixels.size() / 3; i++) memcpy(pixels.data() + 3 * i, square.data() + 4 * i, 3);
  return pixels;
}

std::string caption(const std::string& file_name, const std::string& photo) {
  const char* wish = getenv("BITMAR_KERNEL");
  const ModelFile file(read_file(file_name));
  const Detokenizer detokenizer(file.tokenizer, file.config.get<int>("vocab_size"));
  const PhotoModel model(file, select_kernels(wish ? wish : ""));
  State state(model.model, model.see(read_photo(photo, model.size).data()), nullptr);
  std::vector<int64_t> written;
  for (int64_t token = model.begin; static_cast<int>(written.size()) < kLongest; written.push_back(token)) {
    state.forward(&token, 1, nullptr, Write::kNever, true);
    token = state.next({}, 0);
    if (token == model.end) break;
  }
  return detokenizer(written);
}

}  // namespace
}  // namespace bitmar

int main(int count, char** arguments) {
  if (count != 3) {
    fprintf(stderr, "usage: bitmar-run MODEL.bitmar PHOTO.ppm\n");
    return 2;
  }
  const char* about = arguments[1];
  try {
    const std::string text = bitmar::caption(about, arguments[2]);
    const size_t first = text.find_first_not_of(" \n"), last = text.find_last_not_of(" \n");
    puts(first == std::string::npos ? "" : text.substr(first, last - first + 1).c_str());
  } catch (const std::exception& e) {
    fprintf(stderr, "bitmar-run: %s: %s\n", about, e.what());
    return 1;
  }
}
