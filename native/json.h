// JSON (RFC 8259) as the metadata of a file holds it, read whole. Strict: no name twice, nothing after the value.
#pragma once

#include <limits.h>
#include <math.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <map>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

namespace bitmar {

class Json {
 public:
  // Throws std::invalid_argument where the text is not JSON. Strings keep their bytes: whether those are UTF-8 is not checked.
  static Json parse(const std::string& text) {
    const char* at = text.c_str();  // ends in a zero, which no rule below takes
    const char* const end = at + text.size();
    Json value = read(at, kDeepest);
    blanks(at);
    if (at != end) fail("there is something after its end");
    return value;
  }

  // A field as int, double, float, std::string or std::vector<int>. Throws std::invalid_argument for one of another type.
  template <typename T>
  T get(const char* name) const {
    const Json& value = at(name);
    try {
      return value.as(static_cast<T*>(nullptr));
    } catch (const std::invalid_argument& e) {
      throw std::invalid_argument(std::string(name) + e.what());
    }
  }

  const Json& at(const std::string& name) const {
    const auto found = names_.find(name);
    if (found == names_.end()) throw std::invalid_argument("there is no '" + name + "'");
    return items_[found->second];
  }
  const std::vector<Json>& list(const char* name) const { return at(name).expect(kArray, " is no list").items_; }
  const std::map<std::string, size_t>& names() const { return names_; }  // of an object; the place of each among the items
  const std::vector<Json>& items() const { return items_; }              // of an array or an object

  const std::string& text() const { return expect(kString, " is no string").text_; }
  bool truth() const { return expect(kBool, " is neither true nor false").number_ != 0; }
  double number() const { return expect(kNumber, " is no number").number_; }
  int64_t whole() const {
    if (const double x = number(); x == floor(x) && fabs(x) < 9007199254740992.0) return static_cast<int64_t>(x);
    throw std::invalid_argument(" is no whole number");
  }

 private:
  enum Kind { kNull, kBool, kNumber, kString, kArray, kObject };
  static constexpr int kDeepest = 64;

  [[noreturn]] static void fail(const char* what) { throw std::invalid_argument(std::string("this is no JSON: ") + what); }

  const Json& expect(Kind kind, const char* otherwise) const {
    if (kind_ != kind) throw std::invalid_argument(otherwise);
    return *this;
  }

  int as(int*) const {
    const int64_t x = whole();
    if (x < INT_MIN || x > INT_MAX) throw std::invalid_argument(" is too large");
    return static_cast<int>(x);
  }
  double as(double*) const { return number(); }
  float as(float*) const { return static_cast<float>(number()); }
  std::string as(std::string*) const { return text(); }
  std::vector<int> as(std::vector<int>*) const {
    std::vector<int> all;
    for (const Json& item : expect(kArray, " is no list").items_) all.push_back(item.as(static_cast<int*>(nullptr)));
    return all;
  }

  // How many characters of `set` stand here. strspn measures the whole text first in WebAssembly's libc.
  static size_t span(const char* at, const char* set) {
    size_t n = 0;
    while (at[n] != '\0' && strchr(set, at[n])) n++;
    return n;
  }

  static void blanks(const char*& at) { at += span(at, " \t\n\r"); }

  static bool take(const char*& at, const char* word) {
    const size_t n = strlen(word);
    if (strncmp(at, word, n) != 0) return false;
    at += n;
    return true;
  }

  static Json read(const char*& at, int depth) {
    if (depth == 0) fail("it is nested too deep");
    Json value;
    blanks(at);
    if (*at == '"') {
      value.kind_ = kString, value.text_ = string(at);
    } else if (take(at, "[")) {
      value.kind_ = kArray;
      for (blanks(at); !take(at, "]"); separate(at, ']')) value.items_.push_back(read(at, depth - 1));
    } else if (take(at, "{")) {
      value.kind_ = kObject;
      for (blanks(at); !take(at, "}"); separate(at, '}')) {
        if (!value.names_.emplace(string(at), value.items_.size()).second) fail("a name stands twice");
        blanks(at);
        if (!take(at, ":")) fail("a ':' is missing");
        value.items_.push_back(read(at, depth - 1));
      }
    } else if (take(at, "true")) {
      value.kind_ = kBool, value.number_ = 1;
    } else if (take(at, "false")) {
      value.kind_ = kBool;
    } else if (!take(at, "null")) {
      value.kind_ = kNumber, value.number_ = decimal(at);
    }
    return value;
  }

  // Past a comma and what is blank, up to the next item; or up to the end.
  static void separate(const char*& at, char end) {
    blanks(at);
    if (*at == end) return;
    if (!take(at, ",")) fail("a ',' is missing");
    blanks(at);
    if (*at == end) fail("nothing follows a ','");
  }

  static double decimal(const char*& at) {
    const char* const start = at;
    const auto digits = [&at] {
      const size_t n = span(at, "0123456789");
      if (n == 0) fail("a value is missing");
      at += n;
    };
    take(at, "-");
    if (!take(at, "0")) digits();
    if (take(at, ".")) digits();
    if (take(at, "e") || take(at, "E")) {
      if (!take(at, "+")) take(at, "-");
      digits();
    }
    return strtod(std::string(start, at).c_str(), nullptr);
  }

  static std::string string(const char*& at) {
    if (!take(at, "\"")) fail("a '\"' is missing");
    std::string text;
    while (*at != '"') {
      if (static_cast<unsigned char>(*at) < 0x20) fail("a string has no end or holds a control character");
      if (*at != '\\') {
        text += *at++;
        continue;
      }
      static constexpr char kNames[] = "\"\\/bfnrt", kMeant[] = "\"\\/\b\f\n\r\t";
      const char escape = at[1];
      at += escape == '\0' ? 1 : 2;
      if (escape == 'u') {
        uint32_t code = hex(at);
        if (code >> 10 == 0x36 && take(at, "\\u")) {  // the first half of a pair
          const uint32_t low = hex(at);
          if (low >> 10 != 0x37) fail("half a character");
          code = 0x10000 + ((code & 0x3ff) << 10) + (low & 0x3ff);
        }
        if (code >> 11 == 0x1b) fail("half a character");
        append(text, code);
      } else if (const char* found = escape == '\0' ? nullptr : strchr(kNames, escape)) {
        text += kMeant[found - kNames];
      } else {
        fail("an unknown escape");
      }
    }
    at++;
    return text;
  }

  static uint32_t hex(const char*& at) {
    if (span(at, "0123456789abcdefABCDEF") < 4) fail("\\u needs four digits");
    at += 4;
    return static_cast<uint32_t>(strtoul(std::string(at - 4, at).c_str(), nullptr, 16));
  }

  static void append(std::string& text, uint32_t code) {  // as UTF-8
    if (code < 0x80) {
      text += static_cast<char>(code);
      return;
    }
    const int more = code < 0x800 ? 1 : code < 0x10000 ? 2 : 3;
    text += static_cast<char>((0xf00 >> more & 0xff) | code >> (6 * more));
    for (int i = more - 1; i >= 0; i--) text += static_cast<char>(0x80 | (code >> (6 * i) & 0x3f));
  }

  Kind kind_ = kNull;
  double number_ = 0;
  std::string text_;
  std::vector<Json> items_;
  std::map<std::string, size_t> names_;
};

}  // namespace bitmar
