// The whole network: two causal stacks, a picture between them, an episodic memory beside.
//
// tokens -> embedding -> encoder -> z -> fusion with the picture -> f ----> x + f -> decoder -> head -> logits
//                                                                 |                    ^ every layer
//                                                                 +-> running mean q -> memory read r
#pragma once

#include <atomic>
#include <memory>
#include <stdexcept>
#include <vector>

#include "concepts.h"
#include "config.h"
#include "conv.h"
#include "key_value.h"
#include "memory.h"
#include "sampling.h"
#include "vision.h"
#include "weights.h"

namespace bitmar {

// A picture as texts need it: vision tokens (N, d), and the fusion's keys and values.
struct Image {
  Buffer<float> tokens;
  KeyValue packed;
  Evidence evidence;
  Buffer<float> pooled;         // the mean patch feature (D_v); empty where only the tokens are known, as is the next
  std::vector<float> concepts;  // the score of each (K); empty without a concept bank
};

// Weights that overflow float32: no choice of a token would mean anything.
struct NotFinite : std::runtime_error {
  NotFinite()
      : runtime_error(
            "this model computes numbers that are not finite: its file is damaged or its training diverged, get another") {}
};

enum class Write { kNever, kEnded, kAll };  // which segments of a call are stored

class Model;

// Scratch memory, which a finished text leaves to the next one: allocating it anew would take a tenth of a prompt's time.
struct Room {
  Workspace work_;
  // Rows of a piece: embeddings, fused text, the decoder's stream; what a layer needs; the memory's queries and reads.
  Buffer<float> x_, f_, h_, normed_, wide_, mixed_, turned_, query_, reads_;
  std::vector<KeyValue> rings_;  // of one sequence
  std::vector<int64_t> ids_;     // of a piece
  SamplingRoom sampling_;
};

// All that changes while a text goes on: the ring of keys and values of each layer, the memory, the running query. The
// sequences of a batch stand at one position and share the picture.
class State : Room {
 public:
  State(std::shared_ptr<const Model> model, std::shared_ptr<const Image> image, std::shared_ptr<const MemoryState> memory,
        bool kv_int16 = false);  // keys and values in int16: a little finer, but twice the bytes for each token to read
  ~State();
  State(const State&) = delete;
  State& operator=(const State&) = delete;

  // Runs ids (batch, tokens), row by row, after those seen; hidden (batch, tokens, d) may be null.
  void forward(const int64_t* ids, int tokens, float* hidden, Write write, bool decode);

  // The logits (batch, vocabulary) after the last token, computed when first asked for. Throws NotFinite.
  const float* logits();

  // The next token of one sequence, from those logits; u in [0, 1) decides where chance does. Throws NotFinite.
  int next(const Sampling& sampling, double u);

  // The k likeliest continuations of each sequence, best first: ids and penalised log-probabilities (batch, k). 1 <= k <=
  // vocabulary. Throws NotFinite.
  void candidates(int k, float penalty, int64_t* ids, float* scores);

  // Natural log-probability of each of the ids (tokens) of one sequence but the first: (tokens - 1). Throws NotFinite.
  void score(const int64_t* ids, int tokens, float* scores);

  // Rearranges or repeats the sequences, after a step of beam search.
  void select(const std::vector<int>& sources);

  // The memory's query after the last token, (memory_dim), of the last sequence.
  const float* query() const { return last_query_.data(); }

  // Writes the query after the last token of the one sequence into its memory (eq. 1).
  void write_memory();

  // From here on every sequence reads this memory.
  void replace_memory(const std::shared_ptr<const MemoryState>& memory);

  const Model& model() const { return *model_; }
  // What the image speaks for, from the second token on: a sentence begins as sentences do.
  const Evidence& evidence() const { return image_ && seen_ > 1 ? image_->evidence : kNone; }
  int batch() const { return static_cast<int>(sequences_.size()); }
  int64_t seen() const { return seen_; }
  std::shared_ptr<const MemoryState> memory(int sequence) const { return sequences_[sequence].memory; }
  const Written& written(int sequence) const { return sequences_[sequence].written; }

 private:
  struct Sequence {
    std::vector<KeyValue> layers;
    std::shared_ptr<const MemoryState> memory;
    QueryCarry carry;
    Written written;
  };

  static const Evidence kNone;

  int places() const;  // of a full ring
  int used() const;    // of them by tokens seen

  // One piece of at most a chunk, inside one segment; rows (batch * tokens) of every buffer are ordered by sequence.
  void run(const int64_t* ids, int tokens, Write write, bool decode);
  void make_room(int tokens);
  void embed(const int64_t* ids, int tokens);
  void turn_positions(int tokens);
  void stack(float* x, size_t first, size_t last, int tokens);
  void attend(float* x, size_t layer, int tokens);
  void fuse(float* x, int rows);
  void remember(int tokens, Write write);
  void normalise(const float* x, const Buffer<float>& gain, int rows, float* y) const;

  std::shared_ptr<const Model> model_;
  std::shared_ptr<const Image> image_;
  bool kv_int16_;
  std::vector<Sequence> sequences_;
  int64_t seen_ = 0;
  int segment_ = 0;               // tokens of the unfinished segment
  Buffer<double> cosine_, sine_;  // of the position `seen_`, (head_dim / 2)
  Buffer<float> turns_;           // (tokens, 2, head_dim / 2): cosines and sines of a piece's positions
  Buffer<float> last_, logits_, last_query_;
  bool logits_fresh_ = false;
};

class Model {
 public:
  // tower: a pretrained one, beside the configuration. The weights must outlive the model.
  Model(const Kernels& kernels, const Config& config, const Weights& weights, std::shared_ptr<const ConvTower> tower = nullptr);
  ~Model() { delete spare_.load(); }

  static const char* unsupported(const Config& config);  // why this engine cannot run it; null if it can

  int image_size() const;                                            // the side of a photo in pixels; 0 without a tower
  void tower(const uint8_t* photo, float* features) const;           // a square photo (S, S, 3) -> patch features (N_p, D_v)
  std::shared_ptr<const Image> see(const uint8_t* photo) const;      // both: from pixels to all that a text needs
  std::shared_ptr<const Image> encode(const float* features) const;  // patch features (N_p, D_v) as an image
  std::shared_ptr<const Image> image(const float* tokens, Evidence evidence) const;  // vision tokens (N, d) alone
  std::shared_ptr<const MemoryState> memory_state(const float* slots, const float* usage) const;
  void head(const float* hidden, int tokens, float* logits) const;  // (tokens, d) -> (tokens, vocabulary); throws NotFinite
  size_t weight_bytes() const;     // that one text token with a picture reads, but for its keys and values
  size_t ternary_weights() const;  // that it is multiplied with
  bool has_memory() const { return memory_ != nullptr; }

  const Kernels& kernels;
  const Config config;

 private:
  friend class State;

  struct Block {
    Buffer<float> attn_norm, mlp_norm;
    Linear qkv, out, up, down, memory;
    float gate = 0;
  };

  Block block(const Weights& weights, const std::string& name, bool conditioned) const;
  std::shared_ptr<Image> pack(Buffer<float> tokens, Evidence evidence) const;
  void finite_head(const float* hidden, int tokens, float* logits, Workspace& work) const;

  const int8_t* embedding_;  // in the mapped file: a text touches few of its rows
  Buffer<float> row_scale_;
  std::vector<Block> blocks_;  // the encoder's, then the decoder's
  Buffer<float> encoder_norm_, decoder_norm_, fusion_norm_;
  Linear fusion_query_, fusion_key_value_, fusion_out_, memory_proj_, head_;
  std::unique_ptr<Tower> tower_;
  std::shared_ptr<const ConvTower> conv_tower_;
  std::unique_ptr<ConceptBank> concepts_;
  VisionProjector projector_;
  std::unique_ptr<EpisodicMemory> memory_;
  std::shared_ptr<const MemoryState> initial_memory_;
  mutable std::atomic<Room*> spare_{nullptr};
  Buffer<double> step_cosine_, step_sine_;  // of one position
  Buffer<float> sink_turn_;                 // (2, head_dim / 2): of position sinks + window - 1
};

}  // namespace bitmar
