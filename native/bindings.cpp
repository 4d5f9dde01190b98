// The module bitmar._native: arrays in, arrays out. Whatever takes time runs without the interpreter's lock.
#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/shared_ptr.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>
#include <nanobind/stl/tuple.h>
#include <nanobind/stl/unique_ptr.h>

#include <optional>

#include "conv.h"
#include "dispatch.h"
#include "model.h"
#include "rates.h"
#include "read_config.h"

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
    const char type = x.dtype() == nb::dtype<uint8_t>()   ? 'u'
                      : x.dtype() == nb::dtype<int8_t>()  ? 'i'
                      : x.dtype() == nb::dtype<int32_t>() ? 'w'
                      : x.dtype() == nb::dtype<float>()   ? 'f'
                                                          : '?';
    Tensor tensor{x.data(), type, {}};
    for (size_t i = 0; i < x.ndim(); i++) tensor.shape.push_back(static_cast<int64_t>(x.shape(i)));
    found.emplace(nb::cast<std::string>(name), std::move(tensor));
  }
  return found;
}

void check_vocabulary(const Model& model, const int64_t* ids, size_t count) {
  for (size_t i = 0; i < count; i++)
    if (ids[i] < 0 || ids[i] >= model.config.vocab_size) throw std::invalid_argument("an id lies outside the vocabulary");
}

// ids (batch, tokens) or (tokens), all inside the vocabulary. Returns the tokens of a row.
int check_ids(const State& state, const Ids& ids) {
  const size_t batch = ids.ndim() == 2 ? ids.shape(0) : 1;
  if (ids.ndim() < 1 || ids.ndim() > 2 || batch != static_cast<size_t>(state.batch()) || ids.size() == 0)
    throw std::invalid_argument("ids must be (batch, tokens) with the state's batch");
  check_vocabulary(state.model(), ids.data(), ids.size());
  return static_cast<int>(ids.shape(ids.ndim() - 1));
}

void need_memory(const State& state) {
  if (!state.model().has_memory()) throw std::invalid_argument("this model has no memory");
}

FloatArray forward(State& state, const Ids& ids, int write) {
  const int tokens = check_ids(state, ids);
  const size_t d = state.model().config.hidden_size;
  Buffer<float> hidden(ids.size() * d);
  {
    nb::gil_scoped_release unlocked;
    state.forward(ids.data(), tokens, hidden.data(), static_cast<Write>(write), true);
  }
  return array(std::move(hidden), {static_cast<size_t>(state.batch()), static_cast<size_t>(tokens), d});
}

// Reads ids (T) for the state alone. decode: up to the decoder's end, for what is written next.
void read(State& state, const Ids& ids, Write write, bool decode) {
  const int tokens = check_ids(state, ids);
  nb::gil_scoped_release unlocked;
  state.forward(ids.data(), tokens, nullptr, write, decode);
}

int next(State& state, std::optional<int64_t> token, double temperature, int top_k, double top_p, float penalty, double u) {
  if (token) check_vocabulary(state.model(), &*token, 1);
  if (state.batch() != 1 || (state.seen() == 0 && !token)) throw std::invalid_argument("next needs one sequence with a prompt");
  nb::gil_scoped_release unlocked;
  if (token) state.forward(&*token, 1, nullptr, Write::kNever, true);
  return state.next({temperature, top_k, top_p, penalty}, u);
}

std::tuple<IdArray, FloatArray> candidates(State& state, int count, float penalty) {
  if (count < 1 || count > state.model().config.vocab_size || state.seen() == 0)
    throw std::invalid_argument("candidates: count is out of range");
  const size_t batch = state.batch(), k = count;
  Buffer<int64_t> ids(batch * k);
  Buffer<float> scores(batch * k);
  {
    nb::gil_scoped_release unlocked;
    state.candidates(count, penalty, ids.data(), scores.data());
  }
  return {array(std::move(ids), {batch, k}), array(std::move(scores), {batch, k})};
}

void select(State& state, const Ids& sources) {
  std::vector<int> chosen;
  for (size_t i = 0; i < sources.size(); i++) {
    if (sources.data()[i] < 0 || sources.data()[i] >= state.batch()) throw std::invalid_argument("no such sequence");
    chosen.push_back(static_cast<int>(sources.data()[i]));
  }
  if (chosen.empty()) throw std::invalid_argument("select needs a sequence");
  state.select(chosen);
}

FloatArray head(const Model& model, const float* hidden, size_t tokens) {
  const size_t vocabulary = model.config.vocab_size;
  Buffer<float> logits(tokens * vocabulary);
  {
    nb::gil_scoped_release unlocked;
    model.head(hidden, static_cast<int>(tokens), logits.data());
  }
  return array(std::move(logits), {tokens, vocabulary});
}

FloatArray copy_of(const float* x, std::initializer_list<size_t> shape) {
  size_t size = 1;
  for (size_t n : shape) size *= n;
  Buffer<float> copy(size);
  std::copy_n(x, size, copy.data());
  return array(std::move(copy), shape);
}

FloatArray query(const State& state) {
  need_memory(state);
  if (state.seen() == 0) throw std::invalid_argument("no query: nothing has been read yet");
  return copy_of(state.query(), {static_cast<size_t>(state.model().config.memory_dim)});
}

// The fields of bitmar.runtime.cache.ImageTokens: tokens (N, d), the image, pooled (D_v), concepts (K) or None, and the
// evidence as ids, bonus and after (n) each.
nb::tuple fields(const std::shared_ptr<const Image>& image, const Config& config) {
  const Evidence& evidence = image->evidence;
  const size_t count = evidence.ids.size(), n = config.vision_tokens(), d = config.hidden_size;
  Buffer<int64_t> ids(count), after(count);
  std::copy_n(evidence.ids.data(), count, ids.data());
  std::copy_n(evidence.after.data(), count, after.data());
  nb::object concepts =
      image->concepts.empty() ? nb::none() : nb::cast(copy_of(image->concepts.data(), {image->concepts.size()}));
  return nb::make_tuple(
      copy_of(image->tokens.data(), {n, d}), std::const_pointer_cast<Image>(image),
      copy_of(image->pooled.data(), {image->pooled.size()}), concepts,
      nb::make_tuple(array(std::move(ids), {count}), copy_of(evidence.bonus.data(), {count}), array(std::move(after), {count})));
}

using Photo = nb::ndarray<const uint8_t, nb::ndim<3>, nb::c_contig, nb::device::cpu>;

const uint8_t* data(const Photo& photo, size_t side) {
  if (side == 0) throw std::invalid_argument("this model has no tower");
  if (photo.shape(0) != side || photo.shape(1) != side || photo.shape(2) != 3)
    throw std::invalid_argument("the photo must be uint8 (S, S, 3)");
  return photo.data();
}

// A tower's patch features (N_p, D_v).
template <typename Run>
FloatArray features(int grid, int dim, Run run) {
  const size_t patches = static_cast<size_t>(grid) * grid, width = dim;
  Buffer<float> features(patches * width);
  {
    nb::gil_scoped_release unlocked;
    run(features.data());
  }
  return array(std::move(features), {patches, width});
}

}  // namespace

// clang-format off: a table, an entry a name
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

  m.def("ternary_sums", [](const std::string& kernels, const nb::ndarray<const uint8_t, nb::ndim<2>, nb::c_contig>& packed,
                           int columns, const nb::ndarray<const int8_t, nb::ndim<2>, nb::c_contig>& codes) {
    const int rows = static_cast<int>(packed.shape(0)), tokens = static_cast<int>(codes.shape(0));
    if (static_cast<int>(codes.shape(1)) != columns || static_cast<int>(packed.shape(1)) != (columns + 3) / 4)
      throw std::invalid_argument("packed and codes do not fit the columns");
    const Linear linear = Linear::ternary(packed.data(), rows, columns, 1);
    Buffer<int8_t> padded(static_cast<size_t>(tokens) * linear.padded_columns());
    for (int t = 0; t < tokens; t++)
      std::copy_n(codes.data() + static_cast<size_t>(t) * columns, columns,
                  padded.data() + static_cast<size_t>(t) * linear.padded_columns());
    Buffer<int32_t> sums(static_cast<size_t>(tokens) * rows);
    select_kernels(kernels).ternary_sums(linear.view(), padded.data(), tokens, sums.data());
    return array(std::move(sums), {static_cast<size_t>(tokens), static_cast<size_t>(rows)});
  }, "kernels"_a, "packed"_a, "columns"_a, "codes"_a, "Integer product of a packed matrix and int8 rows: (tokens, rows).");

  m.def("bandwidth", [](const std::string& kernels, size_t bytes, double seconds) {
    return bandwidth(select_kernels(kernels), bytes, seconds);
  }, "kernels"_a, "bytes"_a, "seconds"_a, "Bytes per second that one core reads from a block of this size.");

  m.def("product_rate", [](const std::string& kernels, double seconds) { return product_rate(select_kernels(kernels), seconds); },
        "kernels"_a, "seconds"_a, "Weights per second that one core multiplies with one token.");

  m.def("unsupported", [](const nb::dict& values) -> std::optional<std::string> {
    const char* reason = Model::unsupported(config(values));
    return reason ? std::optional<std::string>(reason) : std::nullopt;
  }, "config"_a, "Why this engine cannot run a configuration, or None.");

  nb::class_<ConvTower>(m, "ConvTower", "A pretrained backbone in integers. For any number of threads.")
      .def("__init__", [](ConvTower* self, const nb::dict& values, const nb::dict& arrays, const std::string& kernels) {
        new (self) ConvTower(select_kernels(kernels), read_conv_tower_config(Dict{values}), Weights(tensors(arrays)));
      }, "config"_a, "tensors"_a, "kernels"_a = "")
      .def("__call__", [](const ConvTower& self, const Photo& photo) {
        const uint8_t* pixels = data(photo, self.image_size());
        return features(self.grid(), self.dim(), [&](float* out) { self(pixels, out); });
      }, "photo"_a, "A square photo, uint8 (S, S, 3) -> patch features (N_p, D_v).");

  nb::class_<Image>(m, "Image", "A picture as texts need it.");

  nb::class_<MemoryState>(m, "MemoryState", "Slots and usage, packed for reading.")
      .def("arrays", [](const MemoryState& self) {
        const size_t slots = self.usage.size(), width = self.slots.size() / slots;
        return std::make_tuple(copy_of(self.slots.data(), {slots, width}), copy_of(self.usage.data(), {slots}));
      }, "Slots (K, C) and usage (K).");

  nb::class_<Model>(m, "Model", "A model's weights in the kernels' layout.")
      .def("__init__", [](Model* self, const nb::dict& values, const nb::dict& arrays, const std::string& kernels,
                          std::shared_ptr<ConvTower> tower, const std::vector<float>& mean, const std::vector<float>& std) {
        Config given = config(values);
        if (mean.size() != 3 || std.size() != 3) throw std::invalid_argument("mean and std are of three colors");
        std::copy_n(mean.data(), 3, given.tower.mean);
        std::copy_n(std.data(), 3, given.tower.std);
        new (self) Model(select_kernels(kernels), given, Weights(tensors(arrays)), std::move(tower));
      }, "config"_a, "tensors"_a, "kernels"_a, "tower"_a.none(), "mean"_a, "std"_a, nb::keep_alive<1, 3>(),
           "tower: a pretrained one; mean and std: of the pixels that the model's own tower sees.")
      .def_prop_ro("kernels", [](const Model& self) { return self.kernels.name; })
      .def_prop_ro("weight_bytes", &Model::weight_bytes, "Bytes of weights that a text token reads, head and memory included.")
      .def_prop_ro("weights", &Model::ternary_weights, "Ternary weights that a text token is multiplied with.")
      .def("tower", [](const Model& self, const Photo& photo) {
        const uint8_t* pixels = data(photo, self.image_size());
        return features(self.config.vision_grid, self.config.vision_dim, [&](float* out) { self.tower(pixels, out); });
      }, "photo"_a, "A square photo, uint8 (S, S, 3) -> patch features (N_p, D_v).")
      .def("see", [](const Model& self, const Photo& photo) {
        const uint8_t* pixels = data(photo, self.image_size());
        std::shared_ptr<const Image> image;
        {
          nb::gil_scoped_release unlocked;
          image = self.see(pixels);
        }
        return fields(image, self.config);
      }, "photo"_a, "A square photo, uint8 (S, S, 3) -> the fields of ImageTokens.")
      .def("encode", [](const Model& self, const Floats& features) {
        const Config& config = self.config;
        const float* in = data(features, int64_t{config.vision_grid} * config.vision_grid * config.vision_dim, "features");
        std::shared_ptr<const Image> image;
        {
          nb::gil_scoped_release unlocked;
          image = self.encode(in);
        }
        return fields(image, config);
      }, "features"_a, "Patch features (N_p, D_v) -> the fields of ImageTokens.")
      .def("image", [](const Model& self, const Floats& tokens, const Ids& ids, const Floats& bonus, const Ids& after) {
        const Config& config = self.config;
        Evidence evidence;
        if (bonus.size() != ids.size() || after.size() != ids.size())
          throw std::invalid_argument("every token of the evidence needs a bonus and what it follows");
        check_vocabulary(self, ids.data(), ids.size());
        for (size_t i = 0; i < ids.size(); i++) {
          evidence.ids.push_back(static_cast<int>(ids.data()[i]));
          evidence.bonus.push_back(bonus.data()[i]);
          evidence.after.push_back(static_cast<int>(after.data()[i]));
        }
        const float* in = data(tokens, int64_t{config.vision_tokens()} * config.hidden_size, "vision tokens");
        return std::const_pointer_cast<Image>(self.image(in, std::move(evidence)));
      }, "tokens"_a, "ids"_a, "bonus"_a, "after"_a, "Vision tokens (N, d), and the tokens that the image speaks for -> Image.")
      .def("memory", [](const Model& self, const Floats& slots, const Floats& usage) {
        if (!self.has_memory()) throw std::invalid_argument("this model has no memory");
        const int64_t count = self.config.memory_slots;
        return std::const_pointer_cast<MemoryState>(
            self.memory_state(data(slots, count * self.config.memory_dim, "slots"), data(usage, count, "usages")));
      }, "slots"_a, "usage"_a, "Slots (K, C) and usage (K) -> MemoryState.")
      .def("head", [](const Model& self, const Floats& hidden) {
        if (hidden.ndim() != 2 || hidden.shape(1) != static_cast<size_t>(self.config.hidden_size))
          throw std::invalid_argument("hidden states must be (tokens, d)");
        return head(self, hidden.data(), hidden.shape(0));
      }, "hidden"_a, "Hidden states (T, d) -> logits (T, V).");

  // What bitmar.runtime.backend.State says of them; bitmar.runtime.native adds the rest.
  nb::class_<State>(m, "State", "All that changes while a text goes on. For one thread at a time.")
      .def(nb::init<std::shared_ptr<Model>, std::shared_ptr<Image>, std::shared_ptr<MemoryState>, bool>(), "model"_a,
           "image"_a.none(), "memory"_a.none(), "kv_int16"_a)
      .def("read", [](State& self, const Ids& ids) { read(self, ids, Write::kNever, true); }, "ids"_a)
      .def("choose", &next, "token"_a.none(), "temperature"_a, "top_k"_a, "top_p"_a, "penalty"_a, "u"_a,
           "Feed a token, if any, and choose the next.")
      .def("candidates", &candidates, "count"_a, "penalty"_a)
      .def("select", &select, "sources"_a)
      .def("branch", [](State& self, const Ids& sources, const Ids& tokens) {
        if (tokens.size() != sources.size()) throw std::invalid_argument("every sequence needs its token");
        check_vocabulary(self.model(), tokens.data(), tokens.size());
        select(self, sources);
        nb::gil_scoped_release unlocked;
        self.forward(tokens.data(), 1, nullptr, Write::kNever, true);
      }, "sources"_a, "tokens"_a)
      .def("forward", &forward, "ids"_a, "write"_a = 0)
      .def("logits", [](State& self, const Ids& ids) {
        const FloatArray hidden = forward(self, ids, 0);
        return head(self.model(), hidden.data(), ids.size());
      }, "ids"_a)
      .def("score", [](State& self, const Ids& ids) {
        const int tokens = check_ids(self, ids);
        if (self.batch() != 1) throw std::invalid_argument("score needs one sequence");
        Buffer<float> scores(tokens - 1);
        {
          nb::gil_scoped_release unlocked;
          self.score(ids.data(), tokens, scores.data());
        }
        return array(std::move(scores), {static_cast<size_t>(tokens - 1)});
      }, "ids"_a)
      .def("query", [](State& self, const Ids& ids) {
        read(self, ids, Write::kNever, false);
        return query(self);
      }, "ids"_a)
      .def("last_query", &query)
      .def("write_segments", [](State& self, const Ids& ids) { read(self, ids, Write::kAll, false); }, "ids"_a,
           "Read a whole sequence (T,) and write its segments into the memory.")
      .def("write_query", [](State& self) {
        need_memory(self);
        if (self.seen() == 0 || self.batch() != 1)
          throw std::invalid_argument("nothing to write: nothing read, or several sequences");
        self.write_memory();
      }, "Write the query after the last token into the memory.")
      .def("exchange_memory", [](State& self, const std::shared_ptr<MemoryState>& memory) {
        need_memory(self);
        self.replace_memory(memory);
      }, "memory"_a, "Read this memory from here on.")
      .def("memory", [](const State& self) { return std::const_pointer_cast<MemoryState>(self.memory(0)); });
}
// clang-format on

}  // namespace bitmar
