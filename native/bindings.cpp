// The module bitmar._native: arrays in, arrays out. Whatever takes time runs without the interpreter's lock.
#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/shared_ptr.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>
#include <nanobind/stl/tuple.h>
#include <nanobind/stl/unique_ptr.h>

#include <chrono>
#include <optional>

#include "concepts.h"
#include "conv.h"
#include "dispatch.h"
#include "model.h"
#include "read_config.h"
#include "sampling.h"

namespace nb = nanobind;
using namespace nb::literals;

namespace bitmar {
namespace {

using Floats = nb::ndarray<const float, nb::c_contig, nb::device::cpu>;
using Ids = nb::ndarray<const int64_t, nb::c_contig, nb::device::cpu>;
using FloatArray = nb::ndarray<nb::numpy, float>;
using IdArray = nb::ndarray<nb::numpy, int64_t>;

template <typename T>
nb::ndarray<nb::numpy, T> array(Buffer<T>&& buffer, std::initializer_list<size_t> shape) {
  auto* kept = new Buffer<T>(std::move(buffer));
  nb::capsule owner(kept, [](void* p) noexcept { delete static_cast<Buffer<T>*>(p); });
  return nb::ndarray<nb::numpy, T>(kept->data(), shape, owner);
}

const float* data(const Floats& x, int64_t size, const char* what) {
  if (static_cast<int64_t>(x.size()) != size) throw std::invalid_argument(std::string("wrong number of ") + what);
  return x.data();
}

// Python's dict as read_config.h reads it.
struct Dict {
  nb::dict values;

  template <typename T>
  T get(const char* name) const {
    return nb::cast<T>(values[name]);
  }
  std::vector<Dict> list(const char* name) const {
    std::vector<Dict> all;
    for (nb::handle each : nb::cast<nb::list>(values[name])) all.push_back({nb::cast<nb::dict>(each)});
    return all;
  }
};

Config config(const nb::dict& values) {
  Config config = read_config(Dict{values});
  if (nb::object tower = values["vision_tower"]; !tower.is_none()) {
    config.has_tower = true;
    config.tower = read_tower_config(Dict{nb::cast<nb::dict>(tower)});
  }
  return config;
}

std::map<std::string, Tensor> tensors(const nb::dict& arrays) {
  std::map<std::string, Tensor> found;
  for (auto [name, value] : arrays) {
    nb::ndarray<nb::ro, nb::c_contig, nb::device::cpu> x;  // not a converted copy, which would not outlive this loop
    if (!nb::try_cast(value, x, false)) throw std::invalid_argument("tensors must be contiguous arrays");
    const char type = x.dtype() == nb::dtype<uint8_t>() ? 'u' : x.dtype() == nb::dtype<int8_t>() ? 'i' : x.dtype() == nb::dtype<float>() ? 'f' : '?';
    Tensor tensor{x.data(), type, {}};
    for (size_t i = 0; i < x.ndim(); i++) tensor.shape.push_back(static_cast<int64_t>(x.shape(i)));
    found.emplace(nb::cast<std::string>(name), std::move(tensor));
  }
  return found;
}

// ids (batch, tokens) or (tokens), all inside the vocabulary. Returns the tokens of a row.
int check_ids(const State& state, const Ids& ids) {
  const size_t batch = ids.ndim() == 2 ? ids.shape(0) : 1;
  if (ids.ndim() < 1 || ids.ndim() > 2 || batch != static_cast<size_t>(state.batch()) || ids.size() == 0)
    throw std::invalid_argument("ids must be (batch, tokens) with the state's batch");
  for (size_t i = 0; i < ids.size(); i++)
    if (ids.data()[i] < 0 || ids.data()[i] >= state.model().config.vocab_size)
      throw std::invalid_argument("an id lies outside the vocabulary");
  return static_cast<int>(ids.shape(ids.ndim() - 1));
}

FloatArray forward(State& state, const Ids& ids, int write, bool decode) {
  const int tokens = check_ids(state, ids);
  const size_t d = state.model().config.hidden_size;
  Buffer<float> hidden(decode ? ids.size() * d : 0);
  {
    nb::gil_scoped_release unlocked;
    state.forward(ids.data(), tokens, decode ? hidden.data() : nullptr, static_cast<Write>(write), decode);
  }
  return array(std::move(hidden), {static_cast<size_t>(state.batch()), decode ? static_cast<size_t>(tokens) : 0, d});
}

// Feeds `token` (if any) to one sequence and returns the next.
int next(State& state, std::optional<int64_t> token, double temperature, int top_k, double top_p, float penalty, double u) {
  const int vocabulary = state.model().config.vocab_size;
  if (token && (*token < 0 || *token >= vocabulary)) throw std::invalid_argument("an id lies outside the vocabulary");
  if (state.batch() != 1 || (state.seen() == 0 && !token)) throw std::invalid_argument("next needs one sequence with a prompt");
  nb::gil_scoped_release unlocked;
  if (token) state.forward(&*token, 1, nullptr, Write::kNever, true);
  return choose(state.model().kernels, state.logits(), vocabulary, state.written(0), state.evidence(),
                {temperature, top_k, top_p, penalty}, u, state.sampling_room());
}

// The k likeliest continuations of every sequence: ids (batch, k) and their penalised log-probabilities.
std::tuple<IdArray, FloatArray> candidates(State& state, int k, float penalty) {
  const int vocabulary = state.model().config.vocab_size;
  const size_t batch = state.batch();
  if (k < 1 || k > vocabulary || state.seen() == 0) throw std::invalid_argument("candidates: k is out of range");
  Buffer<int64_t> ids(batch * k);
  Buffer<float> scores(batch * k);
  {
    nb::gil_scoped_release unlocked;
    const float* logits = state.logits();
    for (size_t b = 0; b < batch; b++)
      likeliest(state.model().kernels, logits + b * vocabulary, vocabulary, state.written(static_cast<int>(b)), state.evidence(),
                penalty, k, ids.data() + b * k, scores.data() + b * k, state.sampling_room());
  }
  return {array(std::move(ids), {batch, static_cast<size_t>(k)}), array(std::move(scores), {batch, static_cast<size_t>(k)})};
}

// Seconds of one call, the shortest of those that fit into the time.
template <typename F>
double best_time(double seconds, F f) {
  using Clock = std::chrono::steady_clock;
  const auto end = Clock::now() + std::chrono::duration<double>(seconds);
  double best = 1e9;
  while (Clock::now() < end) {
    constexpr int kCalls = 16;  // between two looks at the clock
    const auto start = Clock::now();
    for (int i = 0; i < kCalls; i++) f();
    best = std::min(best, std::chrono::duration<double>(Clock::now() - start).count() / kCalls);
  }
  return best;
}

FloatArray copy_of(const Buffer<float>& x, std::initializer_list<size_t> shape) {
  Buffer<float> copy(x.size());
  std::copy_n(x.data(), x.size(), copy.data());
  return array(std::move(copy), shape);
}

}  // namespace

NB_MODULE(_native, m) {
  nb::register_exception_translator(
      [](const std::exception_ptr& thrown, void* error) {
        try {
          std::rethrow_exception(thrown);
        } catch (const NotFinite& e) {
          PyErr_SetString(static_cast<PyObject*>(error), e.what());
        }
      },
      nb::object(nb::module_::import_("bitmar.core.errors").attr("FormatError")).release().ptr());
  nb::set_leak_warnings(false);  // at interpreter exit models may still be alive in user code

  m.def("paths", [] {
    std::vector<std::tuple<std::string, std::string>> all;
    for (const Path& path : paths()) all.emplace_back(path.name, path.reason);
    return all;
  }, "Kernel paths, the fastest first: (name, why it cannot run here or '').");

  m.def("quantize", [](const std::string& kernels, const Floats& x) {
    Buffer<int8_t> codes(x.size());
    float scale;
    int32_t sum;
    select_kernels(kernels).quantize(x.data(), static_cast<int>(x.size()), codes.data(), &scale, &sum);
    const size_t n = x.size();
    return std::make_tuple(array(std::move(codes), {n}), scale);
  }, "kernels"_a, "x"_a, "One row to int8 by its max-abs: (codes, scale).");

  m.def("ternary_sums", [](const std::string& kernels, nb::ndarray<const uint8_t, nb::ndim<2>, nb::c_contig> packed, int columns,
                           nb::ndarray<const int8_t, nb::ndim<2>, nb::c_contig> codes) {
    const int rows = static_cast<int>(packed.shape(0)), tokens = static_cast<int>(codes.shape(0));
    if (static_cast<int>(codes.shape(1)) != columns || static_cast<int>(packed.shape(1)) != (columns + 3) / 4)
      throw std::invalid_argument("packed and codes do not fit the columns");
    const Linear linear = Linear::ternary(packed.data(), rows, columns, 1);
    Buffer<int8_t> padded(static_cast<size_t>(tokens) * linear.padded_columns());
    for (int t = 0; t < tokens; t++)
      std::copy_n(codes.data() + static_cast<size_t>(t) * columns, columns, padded.data() + static_cast<size_t>(t) * linear.padded_columns());
    Buffer<int32_t> sums(static_cast<size_t>(tokens) * rows);
    select_kernels(kernels).ternary_sums(linear.view(), padded.data(), tokens, sums.data());
    return array(std::move(sums), {static_cast<size_t>(tokens), static_cast<size_t>(rows)});
  }, "kernels"_a, "packed"_a, "columns"_a, "codes"_a, "Integer product of a packed matrix and int8 rows: (tokens, rows).");

  // Two limits of the machine, for benchmarks: what one core reads, and what the ternary product computes in the first cache.
  m.def("rows_dot", [](nb::ndarray<const int8_t, nb::ndim<2>, nb::c_contig, nb::device::cpu> rows,
                       nb::ndarray<const int8_t, nb::ndim<1>, nb::c_contig, nb::device::cpu> codes) {
    const size_t count = rows.shape(0), width = rows.shape(1);
    if (codes.shape(0) != width) throw std::invalid_argument("rows and codes have different widths");
    Buffer<int32_t> sums(count);
    rows_dot(rows.data(), codes.data(), count, width, sums.data());
    return array(std::move(sums), {count});
  }, "rows"_a, "codes"_a, "Integer products (n,) of int8 rows (n, D) and codes (D,).");
  m.def("bandwidth", [](const std::string& kernels, size_t bytes, double seconds) {
    const Kernels& chosen = select_kernels(kernels);
    Buffer<float> memory(bytes / sizeof(float));
    std::fill_n(memory.data(), memory.size(), 1.0f);  // pages that nothing was written to are all the same one
    float unused = chosen.read_all(memory.data(), memory.size());
    const double time = best_time(seconds, [&] { unused += chosen.read_all(memory.data(), memory.size()); });
    return unused >= 0 ? static_cast<double>(bytes) / time : 0;
  }, "kernels"_a, "bytes"_a, "seconds"_a, "Bytes per second that one core reads from a block of so many bytes.");

  m.def("product_rate", [](const std::string& kernels, double seconds) {
    const Kernels& chosen = select_kernels(kernels);
    constexpr int kRows = 128, kColumns = 512;
    const std::vector<uint8_t> packed(kRows * kColumns / 4, 0x55);
    const Linear linear = Linear::ternary(packed.data(), kRows, kColumns, 1);
    const Buffer<int8_t> codes(kColumns);
    const float scale = 1;
    const int32_t sum = 0;
    float y[kRows];
    return kRows * kColumns / best_time(seconds, [&] { chosen.ternary(linear.view(), codes.data(), &scale, &sum, 1, y, kRows); });
  }, "kernels"_a, "seconds"_a, "Weights per second that one core multiplies with one token.");

  m.def("unsupported", [](const nb::dict& values) -> std::optional<std::string> {
    const char* reason = Model::unsupported(config(values));
    return reason ? std::optional<std::string>(reason) : std::nullopt;
  }, "config"_a, "Why this engine cannot run a configuration, or None.");

  nb::class_<ConvTower>(m, "ConvTower", "A pretrained backbone in integers. For any number of threads.")
      .def("__init__", [](ConvTower* self, const nb::dict& values, const nb::dict& arrays, const std::string& kernels) {
        new (self) ConvTower(select_kernels(kernels), read_conv_tower_config(Dict{values}), Weights(tensors(arrays)));
      }, "config"_a, "tensors"_a, "kernels"_a = "")
      .def("__call__", [](const ConvTower& self, nb::ndarray<const uint8_t, nb::ndim<3>, nb::c_contig, nb::device::cpu> photo) {
        const size_t side = self.image_size(), patches = static_cast<size_t>(self.grid()) * self.grid(), dim = self.dim();
        if (photo.shape(0) != side || photo.shape(1) != side || photo.shape(2) != 3)
          throw std::invalid_argument("the photo must be uint8 (S, S, 3)");
        Buffer<float> features(patches * dim);
        {
          nb::gil_scoped_release unlocked;
          self(photo.data(), features.data());
        }
        return array(std::move(features), {patches, dim});
      }, "photo"_a, "A square photo, uint8 (S, S, 3) -> patch features (N_p, D_v).");

  nb::class_<Image>(m, "Image", "A picture as texts need it.")
      .def("__repr__", [](const Image&) { return "Image()"; });

  nb::class_<MemoryState>(m, "MemoryState", "Slots and usage, packed for reading.");

  nb::class_<Model>(m, "Model", "A model's weights in the kernels' layout.")
      .def("__init__", [](Model* self, const nb::dict& values, const nb::dict& arrays, const std::string& kernels) {
        new (self) Model(select_kernels(kernels), config(values), Weights(tensors(arrays)));
      }, "config"_a, "tensors"_a, "kernels"_a = "", nb::keep_alive<1, 3>())
      .def_prop_ro("kernels", [](const Model& self) { return self.kernels.name; })
      .def_prop_ro("weight_bytes", &Model::weight_bytes, "Bytes of weights that a text token reads, head and memory included.")
      .def_prop_ro("weights", &Model::ternary_weights, "Ternary weights that a text token is multiplied with.")
      .def("tower", [](const Model& self, const Floats& pixels) {
        const TowerConfig& tower = self.config.tower;
        if (!self.config.has_tower) throw std::invalid_argument("this model has no tower");
        const float* in = data(pixels, int64_t{3} * tower.image_size * tower.image_size, "pixels");
        const size_t patches = static_cast<size_t>(self.config.vision_grid) * self.config.vision_grid;
        Buffer<float> features(patches * tower.out_dim);
        {
          nb::gil_scoped_release unlocked;
          self.tower(in, features.data());
        }
        return array(std::move(features), {patches, static_cast<size_t>(tower.out_dim)});
      }, "pixels"_a, "Normalised pixels (3, S, S) -> patch features (N_p, D_v).")
      .def("project", [](const Model& self, const Floats& features) {
        const Config& config = self.config;
        const float* in = data(features, int64_t{config.vision_grid} * config.vision_grid * config.vision_dim, "features");
        const size_t count = static_cast<size_t>(config.patch_tokens()), d = static_cast<size_t>(config.hidden_size);
        Buffer<float> tokens(count * d);
        {
          nb::gil_scoped_release unlocked;
          self.project(in, tokens.data());
        }
        return array(std::move(tokens), {count, d});
      }, "features"_a, "Patch features (N_p, D_v) -> their vision tokens (N_p', d).")
      .def("image", [](const Model& self, const Floats& tokens, const Ids& ids, const Floats& bonus, const Ids& after) {
        const Config& config = self.config;
        Evidence evidence;
        if (bonus.size() != ids.size() || after.size() != ids.size())
          throw std::invalid_argument("every token of the evidence needs a bonus and what it follows");
        for (size_t i = 0; i < ids.size(); i++) {
          if (ids.data()[i] < 0 || ids.data()[i] >= config.vocab_size) throw std::invalid_argument("an id lies outside the vocabulary");
          evidence.ids.push_back(static_cast<int>(ids.data()[i]));
          evidence.bonus.push_back(bonus.data()[i]);
          evidence.after.push_back(static_cast<int>(after.data()[i]));
        }
        const float* in = data(tokens, int64_t{config.vision_tokens()} * config.hidden_size, "vision tokens");
        return std::const_pointer_cast<Image>(self.image(in, std::move(evidence)));
      }, "tokens"_a, "ids"_a, "bonus"_a, "after"_a, "Vision tokens (N, d), and the tokens that the image speaks for -> Image.")
      .def("image_tokens", [](const Model& self, const Image& image) {
        return copy_of(image.tokens, {static_cast<size_t>(self.config.vision_tokens()), static_cast<size_t>(self.config.hidden_size)});
      }, "image"_a)
      .def("memory", [](const Model& self, const Floats& slots, const Floats& usage) {
        if (!self.has_memory()) throw std::invalid_argument("this model has no memory");
        return std::const_pointer_cast<MemoryState>(self.memory_state(data(slots, int64_t{self.config.memory_slots} * self.config.memory_dim, "slots"),
                                                                      data(usage, self.config.memory_slots, "usages")));
      }, "slots"_a, "usage"_a, "Slots (K, C) and usage (K) -> MemoryState.")
      .def("memory_arrays", [](const Model& self, const MemoryState& state) {
        return std::make_tuple(copy_of(state.slots, {static_cast<size_t>(self.config.memory_slots), static_cast<size_t>(self.config.memory_dim)}),
                               copy_of(state.usage, {static_cast<size_t>(self.config.memory_slots)}));
      }, "state"_a, "MemoryState -> slots (K, C), usage (K).")
      .def("head", [](const Model& self, const Floats& hidden) {
        const size_t d = self.config.hidden_size, vocabulary = self.config.vocab_size;
        if (hidden.ndim() != 2 || hidden.shape(1) != d) throw std::invalid_argument("hidden states must be (tokens, d)");
        const size_t tokens = hidden.shape(0);
        Buffer<float> logits(tokens * vocabulary);
        {
          nb::gil_scoped_release unlocked;
          self.head(hidden.data(), static_cast<int>(tokens), logits.data());
        }
        return array(std::move(logits), {tokens, vocabulary});
      }, "hidden"_a, "Hidden states (T, d) -> logits (T, V).")
      .def("start", [](std::shared_ptr<Model> self, std::shared_ptr<Image> image, std::shared_ptr<MemoryState> memory, bool narrow) {
        return std::make_unique<State>(std::move(self), std::move(image), std::move(memory), narrow);
      }, "image"_a.none(), "memory"_a.none(), "narrow"_a, "An empty sequence; narrow: keys and values in int8 instead of int16.");

  nb::class_<State>(m, "State", "All that changes while a text goes on. For one thread at a time.")
      .def_prop_ro("seen", &State::seen)
      .def_prop_ro("batch", &State::batch)
      .def("forward", &forward, "ids"_a, "write"_a = 0, "decode"_a = true, "ids (B, T) -> hidden (B, T, d).")
      .def("next", &next, "token"_a.none(), "temperature"_a, "top_k"_a, "top_p"_a, "penalty"_a, "u"_a,
           "Feed a token, if any, and choose the next.")
      .def("logits", [](State& self) {
        const size_t batch = self.batch(), vocabulary = self.model().config.vocab_size;
        if (self.seen() == 0) throw std::invalid_argument("nothing has been read yet");
        Buffer<float> copy(batch * vocabulary);
        std::copy_n(self.logits(), copy.size(), copy.data());
        return array(std::move(copy), {batch, vocabulary});
      }, "Logits (B, V) behind the last token.")
      .def("query", [](const State& self) {
        if (!self.model().has_memory() || self.seen() == 0) throw std::invalid_argument("no query: no memory, or nothing read");
        const size_t width = self.model().config.memory_dim;
        Buffer<float> copy(width);
        std::copy_n(self.query(), width, copy.data());
        return array(std::move(copy), {width});
      }, "The memory's query (C) behind the last token of the last sequence.")
      .def("write_memory", [](State& self) {
        if (!self.model().has_memory() || self.seen() == 0 || self.batch() != 1)
          throw std::invalid_argument("nothing to write: no memory, nothing read, or several sequences");
        self.write_memory();
      }, "Write the query behind the last token into the memory.")
      .def("replace_memory", [](State& self, std::shared_ptr<MemoryState> memory) {
        if (!self.model().has_memory()) throw std::invalid_argument("this model has no memory");
        self.replace_memory(std::move(memory));
      }, "memory"_a, "Read this memory from here on.")
      .def("candidates", &candidates, "k"_a, "penalty"_a)
      .def("score", [](State& self, const Ids& ids) {
        const int tokens = check_ids(self, ids);
        if (self.batch() != 1) throw std::invalid_argument("score needs one sequence");
        Buffer<float> scores(tokens - 1);
        {
          nb::gil_scoped_release unlocked;
          self.score(ids.data(), tokens, scores.data());
        }
        return array(std::move(scores), {static_cast<size_t>(tokens - 1)});
      }, "ids"_a, "Log-probability of each id (T) but the first.")
      .def("select", [](State& self, const Ids& sources) {
        std::vector<int> chosen;
        for (size_t i = 0; i < sources.size(); i++) {
          if (sources.data()[i] < 0 || sources.data()[i] >= self.batch()) throw std::invalid_argument("no such sequence");
          chosen.push_back(static_cast<int>(sources.data()[i]));
        }
        if (chosen.empty()) throw std::invalid_argument("select needs a sequence");
        self.select(chosen);
      }, "sources"_a, "Rearrange or repeat the sequences.")
      .def("memory", [](const State& self, int sequence) {
        if (sequence < 0 || sequence >= self.batch()) throw std::invalid_argument("no such sequence");
        return std::const_pointer_cast<MemoryState>(self.memory(sequence));
      }, "sequence"_a = 0);
}

}  // namespace bitmar
