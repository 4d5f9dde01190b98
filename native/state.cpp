#include <math.h>

#include "model.h"

namespace bitmar {
namespace {

constexpr int kFirstRing = 64;  // tokens
constexpr int kChunk = 64;      // tokens of a matrix product: enough to reuse the weights, few enough for the second cache

}  // namespace

const Evidence State::kNone;

State::State(std::shared_ptr<const Model> model, std::shared_ptr<const Image> image, std::shared_ptr<const MemoryState> memory,
             bool kv_int16)
    : model_(std::move(model)), image_(std::move(image)), kv_int16_(kv_int16) {
  if (const std::unique_ptr<Room> spare{model_->spare_.exchange(nullptr)}) static_cast<Room&>(*this) = std::move(*spare);
  const int half = model_->config.head_dim() / 2;
  cosine_ = Buffer<double>(half), sine_ = Buffer<double>(half);
  std::fill_n(cosine_.data(), half, 1.0);
  const Config& config = model_->config;
  Sequence first{{}, std::move(memory), QueryCarry(config.hidden_size), Written{std::vector<uint8_t>(config.vocab_size)}};
  if (!first.memory) first.memory = model_->initial_memory_;
  if (!rings_.empty() && rings_[0].int16() == kv_int16_) first.layers.swap(rings_);
  for (size_t i = first.layers.size(); i < model_->blocks_.size(); i++)
    first.layers.emplace_back(config.num_heads, config.head_dim(), std::min(kFirstRing, places()), kv_int16_);
  sequences_.push_back(std::move(first));
}

State::~State() {
  if (!sequences_.empty()) rings_ = std::move(sequences_[0].layers);
  delete model_->spare_.exchange(new (std::nothrow) Room(std::move(static_cast<Room&>(*this))));
}

int State::places() const { return model_->config.attention_sinks + model_->config.attention_window; }

int State::used() const { return static_cast<int>(std::min<int64_t>(seen_, places())); }

// Rings start small and grow by four, or to what a prompt needs: a caption stays in the cache, a stream soon allocates no more.
void State::make_room(int tokens) {
  const int needed = static_cast<int>(std::min<int64_t>(seen_ + tokens, places()));
  const int capacity = sequences_[0].layers[0].capacity(), larger = std::min(std::max(4 * capacity, needed), places());
  if (needed <= capacity) return;
  for (Sequence& sequence : sequences_)
    for (KeyValue& layer : sequence.layers) layer = layer.resized(larger, used());
}

void State::select(const std::vector<int>& sources) {
  std::vector<Sequence> chosen;
  std::vector<int> left(sequences_.size());  // how often each is still wanted: the last one moves instead of copying
  for (int source : sources) left[source]++;
  for (int source : sources) {
    Sequence& from = sequences_[source];
    if (--left[source] == 0) {
      chosen.push_back(std::move(from));
      continue;
    }
    Sequence copy{{}, from.memory, QueryCarry(model_->config.hidden_size), from.written};
    for (const KeyValue& layer : from.layers) copy.layers.push_back(layer.resized(layer.capacity(), used()));
    std::copy_n(from.carry.total.data(), from.carry.total.size(), copy.carry.total.data());
    copy.carry.weight = from.carry.weight;
    chosen.push_back(std::move(copy));
  }
  sequences_ = std::move(chosen);
  logits_fresh_ = false;
}

void State::forward(const int64_t* ids, int tokens, float* hidden, Write write, bool decode) {
  const Config& config = model_->config;
  const size_t d = config.hidden_size;
  const int most = std::max(1, kChunk / batch());
  make_room(tokens);
  for (int done = 0; done < tokens;) {
    // A piece ends where its segment does, so that no token reads what its own segment writes.
    int piece = std::min(most, tokens - done);
    if (model_->memory_) piece = std::min(piece, config.memory_segment - segment_);
    ids_.resize(static_cast<size_t>(batch()) * piece);
    for (int b = 0; b < batch(); b++)
      std::copy_n(ids + static_cast<size_t>(b) * tokens + done, piece, ids_.data() + static_cast<size_t>(b) * piece);
    run(ids_.data(), piece, write == Write::kAll && done + piece < tokens ? Write::kEnded : write, decode);
    for (int b = 0; hidden && b < batch(); b++)
      std::copy_n(h_.data() + static_cast<size_t>(b) * piece * d, piece * d,
                  hidden + (static_cast<size_t>(b) * tokens + done) * d);
    done += piece;
  }
}

const float* State::logits() {
  if (!logits_fresh_) {
    logits_.reserve(static_cast<size_t>(batch()) * model_->config.vocab_size);
    model_->finite_head(last_.data(), batch(), logits_.data(), work_);
    logits_fresh_ = true;
  }
  return logits_.data();
}

void State::score(const int64_t* ids, int tokens, float* scores) {
  const size_t d = model_->config.hidden_size, vocabulary = model_->config.vocab_size;
  constexpr int kPiece = 16;  // tokens whose logits exist at a time
  Buffer<float> hidden(kPiece * d), logits(kPiece * vocabulary);
  for (int done = 0; done < tokens - 1; done += kPiece) {
    const int piece = std::min(kPiece, tokens - 1 - done);
    forward(ids + done, piece, hidden.data(), Write::kNever, true);
    model_->finite_head(hidden.data(), piece, logits.data(), work_);
    for (int t = 0; t < piece; t++) {
      const float* row = logits.data() + t * vocabulary;
      scores[done + t] =
          static_cast<float>(row[ids[done + t + 1]] - model_->kernels.log_total(row, static_cast<int>(vocabulary)));
    }
  }
}

int State::next(const Sampling& sampling, double u) {
  return choose(model_->kernels, logits(), model_->config.vocab_size, sequences_[0].written, evidence(), sampling, u, sampling_);
}

void State::candidates(int k, float penalty, int64_t* ids, float* scores) {
  const int vocabulary = model_->config.vocab_size;
  const float* row = logits();
  for (const Sequence& sequence : sequences_) {
    likeliest(model_->kernels, row, vocabulary, sequence.written, evidence(), penalty, k, ids, scores, sampling_);
    row += vocabulary, ids += k, scores += k;
  }
}

void State::write_memory() {
  Sequence& sequence = sequences_[0];
  sequence.memory = model_->memory_->write(model_->kernels, last_query_.data(), *sequence.memory);
}

void State::replace_memory(const std::shared_ptr<const MemoryState>& memory) {
  for (Sequence& sequence : sequences_) sequence.memory = memory;
}

void State::run(const int64_t* ids, int tokens, Write write, bool decode) {
  const Config& config = model_->config;
  const size_t d = config.hidden_size, rows = static_cast<size_t>(batch()) * tokens, encoder = config.encoder_layers;
  const size_t widest = std::max<size_t>({3 * d, static_cast<size_t>(config.intermediate_size), d + config.memory_dim});
  for (Buffer<float>* buffer : {&x_, &f_, &h_, &normed_, &mixed_}) buffer->reserve(rows * d);
  wide_.reserve(rows * widest), turned_.reserve(d);

  embed(ids, tokens);
  turn_positions(tokens);
  std::copy_n(x_.data(), rows * d, h_.data());
  stack(h_.data(), 0, encoder, tokens);
  normalise(h_.data(), model_->encoder_norm_, static_cast<int>(rows), f_.data());
  if (image_) fuse(f_.data(), static_cast<int>(rows));
  if (model_->memory_) remember(tokens, write);
  if (decode) {
    std::copy_n(x_.data(), rows * d, h_.data());
    model_->kernels.add(h_.data(), f_.data(), 1, static_cast<int>(rows * d));
    if (config.integration == Integration::kAdd) {
      model_->memory_proj_(model_->kernels, reads_.data(), static_cast<int>(rows), mixed_.data(), work_);
      model_->kernels.add(h_.data(), mixed_.data(), 1, static_cast<int>(rows * d));
    } else if (config.integration == Integration::kConcat) {
      const size_t width = config.memory_dim;
      for (size_t row = 0; row < rows; row++) {
        std::copy_n(h_.data() + row * d, d, wide_.data() + row * (d + width));
        std::copy_n(reads_.data() + row * width, width, wide_.data() + row * (d + width) + d);
      }
      model_->memory_proj_(model_->kernels, wide_.data(), static_cast<int>(rows), h_.data(), work_);
    }
    stack(h_.data(), encoder, model_->blocks_.size(), tokens);
    normalise(h_.data(), model_->decoder_norm_, static_cast<int>(rows), h_.data());
    last_.reserve(batch() * d);
    for (int b = 0; b < batch(); b++)
      std::copy_n(h_.data() + ((b + 1) * static_cast<size_t>(tokens) - 1) * d, d, last_.data() + b * d);
    logits_fresh_ = false;
  }
  seen_ += tokens;
}

void State::embed(const int64_t* ids, int tokens) {
  const size_t d = model_->config.hidden_size;
  for (int b = 0; b < batch(); b++)
    for (int t = 0; t < tokens; t++) {
      const size_t row = static_cast<size_t>(b) * tokens + t, id = static_cast<size_t>(ids[row]);
      const int8_t* codes = model_->embedding_ + id * d;
      const float scale = model_->row_scale_[id];
      for (size_t i = 0; i < d; i++) x_[row * d + i] = static_cast<float>(codes[i]) * scale;
      sequences_[b].written.seen[id] = 1;
      sequences_[b].written.last = static_cast<int>(id);
    }
}

// Rotations advance one position at a time, in double precision: after a million tokens they are still exact in float.
void State::turn_positions(int tokens) {
  const size_t half = model_->config.head_dim() / 2;
  turns_.reserve(tokens * 2 * half);
  for (int t = 0; t < tokens; t++)
    for (size_t i = 0; i < half; i++) {
      const double c = cosine_[i], s = sine_[i], step_c = model_->step_cosine_[i], step_s = model_->step_sine_[i];
      turns_[t * 2 * half + i] = static_cast<float>(c);
      turns_[t * 2 * half + half + i] = static_cast<float>(s);
      cosine_[i] = c * step_c - s * step_s;
      sine_[i] = s * step_c + c * step_s;
    }
}

void State::normalise(const float* x, const Buffer<float>& gain, int rows, float* y) const {
  const size_t d = model_->config.hidden_size;
  for (int row = 0; row < rows; row++)
    model_->kernels.rms_norm(x + row * d, gain.data(), model_->config.norm_eps, static_cast<int>(d), y + row * d);
}

void State::stack(float* x, size_t first, size_t last, int tokens) {
  const Config& config = model_->config;
  const Kernels& kernels = model_->kernels;
  const int rows = batch() * tokens;
  const int size = rows * config.hidden_size;
  for (size_t layer = first; layer < last; layer++) {
    const Model::Block& block = model_->blocks_[layer];
    if (block.memory.rows()) {
      block.memory(kernels, reads_.data(), rows, mixed_.data(), work_);
      kernels.add(x, mixed_.data(), block.gate, size);
    }
    attend(x, layer, tokens);
    normalise(x, block.mlp_norm, rows, normed_.data());
    block.up(kernels, normed_.data(), rows, wide_.data(), work_);
    activate(kernels, config.activation, wide_.data(), static_cast<size_t>(rows) * config.intermediate_size);
    block.down(kernels, wide_.data(), rows, mixed_.data(), work_);
    kernels.add(x, mixed_.data(), 1, size);
  }
}

namespace {

// RoPE (arXiv 2104.09864), half-split: x (heads, 2 * half) by one position's cosines and sines. y may be x.
void rotate(const float* x, const float* turn, int heads, size_t half, float* y) {
  const float *cosine = turn, *sine = turn + half;
  for (int h = 0; h < heads; h++, x += 2 * half, y += 2 * half)
    for (size_t i = 0; i < half; i++) {
      const float a = x[i], b = x[half + i];
      y[i] = a * cosine[i] - b * sine[i];
      y[half + i] = b * cosine[i] + a * sine[i];
    }
}

}  // namespace

// Causal self-attention with sinks (arXiv 2309.17453). A piece's tokens enter the ring together and see those up to themselves;
// once the window has moved on they go one by one, because each takes a place that the one before still sees. Keys keep the
// rotation they entered with, and queries then meet the sinks as if these stood right before the window.
void State::attend(float* x, size_t layer, int tokens) {
  const Config& config = model_->config;
  const Kernels& kernels = model_->kernels;
  const Model::Block& block = model_->blocks_[layer];
  const size_t d = config.hidden_size, half = config.head_dim() / 2;
  const int rows = batch() * tokens, sinks = config.attention_sinks, ring = places();
  normalise(x, block.attn_norm, rows, normed_.data());
  block.qkv(kernels, normed_.data(), rows, wide_.data(), work_);
  const float scale = 1 / sqrtf(static_cast<float>(config.head_dim()));
  for (int b = 0; b < batch(); b++) {
    const KeyValueView view = sequences_[b].layers[layer].view();
    void* scratch = scratch_for(work_.attention, view);
    for (int t = 0, count; t < tokens; t += count) {
      const int64_t position = seen_ + t;
      const bool far = position >= ring;
      count = far ? 1 : static_cast<int>(std::min<int64_t>(tokens - t, ring - position));
      float* query = wide_.data() + (static_cast<size_t>(b) * tokens + t) * 3 * d;
      if (far) rotate(query, model_->sink_turn_.data(), config.num_heads, half, turned_.data());
      for (int i = 0; i < count; i++) {
        const int place = static_cast<int>(far ? sinks + (position - sinks) % config.attention_window : position + i);
        const float* turn = turns_.data() + (t + i) * 2 * half;
        float *q = query + i * 3 * d, *key = q + d;
        rotate(key, turn, config.num_heads, half, key);
        kernels.store(view, place, key, key + d);
        rotate(q, turn, config.num_heads, half, q);
      }
      const int visible = far ? ring : static_cast<int>(position) + 1;
      kernels.attend(view, {query, 3 * d, count, visible, 1, scale, nullptr, far ? turned_.data() : nullptr, sinks},
                     normed_.data() + (static_cast<size_t>(b) * tokens + t) * d, d, scratch);
    }
  }
  block.out(kernels, normed_.data(), rows, mixed_.data(), work_);
  kernels.add(x, mixed_.data(), 1, static_cast<int>(rows * d));
}

void State::fuse(float* x, int rows) {
  const Config& config = model_->config;
  const Kernels& kernels = model_->kernels;
  const size_t d = config.hidden_size;
  normalise(x, model_->fusion_norm_, rows, normed_.data());
  model_->fusion_query_(kernels, normed_.data(), rows, wide_.data(), work_);
  const KeyValueView view = image_->packed.view();
  const float scale = 1 / sqrtf(static_cast<float>(config.head_dim()));
  kernels.attend(view, {wide_.data(), d, rows, config.vision_tokens(), 0, scale, nullptr, nullptr, 0}, normed_.data(), d,
                 scratch_for(work_.attention, view));
  model_->fusion_out_(kernels, normed_.data(), rows, mixed_.data(), work_);
  kernels.add(x, mixed_.data(), 1, static_cast<int>(rows * d));
}

void State::remember(int tokens, Write write) {
  const Config& config = model_->config;
  const EpisodicMemory& memory = *model_->memory_;
  const size_t d = config.hidden_size, width = config.memory_dim;
  query_.reserve(tokens * width), reads_.reserve(static_cast<size_t>(batch()) * tokens * width);
  const bool ends = segment_ + tokens == config.memory_segment;
  for (int b = 0; b < batch(); b++) {
    Sequence& sequence = sequences_[b];
    const size_t row = static_cast<size_t>(b) * tokens;
    memory.queries(model_->kernels, f_.data() + row * d, tokens, sequence.carry, query_.data(), work_);
    memory.read(model_->kernels, query_.data(), tokens, *sequence.memory, reads_.data() + row * width, work_);
    if (write == Write::kAll || (write == Write::kEnded && ends))
      sequence.memory = memory.write(model_->kernels, query_.data() + (tokens - 1) * width, *sequence.memory);
    if (ends) {
      std::fill_n(sequence.carry.total.data(), d, 0.0);
      sequence.carry.weight = 0;
    }
  }
  std::copy_n(query_.data() + (tokens - 1) * width, width, last_query_.reserve(width));
  segment_ = ends ? 0 : segment_ + tokens;
}

}  // namespace bitmar
