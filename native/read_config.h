// The configuration from any object of named values: Python's dict, or the JSON of a file.
//
// Values has get<T>(name) and list(name), the objects in a list.
#pragma once

#include "config.h"
#include "conv.h"

namespace bitmar {

template <typename Values>
Activation read_activation(const Values& values) {
  return values.template get<std::string>("activation") == "gelu" ? Activation::kGelu : Activation::kRelu2;
}

template <typename Values>
TowerConfig read_tower_config(const Values& values) {
  TowerConfig tower;
  tower.image_size = values.template get<int>("image_size");
  tower.stem_blocks = values.template get<int>("stem_blocks");
  tower.head_dim = values.template get<int>("head_dim");
  tower.mlp_ratio = values.template get<int>("mlp_ratio");
  tower.out_dim = values.template get<int>("out_dim");
  tower.stem_channels = values.template get<std::vector<int>>("stem_channels");
  tower.bottlenecks = values.template get<std::vector<int>>("bottlenecks");
  tower.widths = values.template get<std::vector<int>>("widths");
  tower.depths = values.template get<std::vector<int>>("depths");
  tower.activation = read_activation(values);
  tower.out_relu = values.template get<std::string>("out_activation") == "relu";
  tower.norm_eps = values.template get<float>("norm_eps");
  return tower;
}

template <typename Values>
ConvTowerConfig read_conv_tower_config(const Values& values) {
  ConvTowerConfig tower;
  tower.image_size = values.template get<int>("image_size");
  tower.scale = values.template get<double>("scale");
  tower.zero = values.template get<int>("zero");
  tower.weights = values.template get<std::string>("weights");
  tower.int8_below = values.template get<int>("int8_below");
  for (const Values& each : values.list("layers")) {
    ConvLayerConfig layer;
    const auto op = each.template get<std::string>("op");
    layer.op = op == "conv"        ? ConvOp::kConv
               : op == "depthwise" ? ConvOp::kDepthwise
               : op == "add"       ? ConvOp::kAdd
                                   : ConvOp::kConcat;
    const auto inputs = each.template get<std::vector<int>>("from");
    for (size_t i = 0; i < inputs.size() && i < 2; i++) layer.inputs[i] = inputs[i];
    layer.scale = each.template get<double>("scale");
    layer.zero = each.template get<int>("zero");
    if (layer.op != ConvOp::kConcat) {
      const auto activation = each.template get<std::string>("activation");
      layer.activation = activation == "relu"    ? ConvActivation::kRelu
                         : activation == "relu6" ? ConvActivation::kRelu6
                                                 : ConvActivation::kNone;
    }
    if (layer.op == ConvOp::kConv) layer.channels = each.template get<int>("channels");
    if (layer.op == ConvOp::kConv || layer.op == ConvOp::kDepthwise) {
      layer.kernel = each.template get<int>("kernel");
      layer.stride = each.template get<int>("stride");
      const auto pad = each.template get<std::vector<int>>("pad");
      layer.pad[0] = pad.at(0), layer.pad[1] = pad.at(1);
    }
    tower.layers.push_back(layer);
  }
  return tower;
}

// All but has_tower and tower.
template <typename Values>
Config read_config(const Values& values) {
  Config config;
  config.vocab_size = values.template get<int>("vocab_size");
  config.hidden_size = values.template get<int>("hidden_size");
  config.encoder_layers = values.template get<int>("encoder_layers");
  config.decoder_layers = values.template get<int>("decoder_layers");
  config.num_heads = values.template get<int>("num_heads");
  config.intermediate_size = values.template get<int>("intermediate_size");
  config.activation = read_activation(values);
  config.rope_theta = values.template get<double>("rope_theta");
  config.norm_eps = values.template get<float>("norm_eps");
  config.attention_sinks = values.template get<int>("attention_sinks");
  config.attention_window = values.template get<int>("attention_window");
  config.vision_dim = values.template get<int>("vision_dim");
  config.vision_grid = values.template get<int>("vision_grid");
  config.concepts = values.template get<int>("concepts");
  config.concept_tokens = values.template get<int>("concept_tokens");
  config.concept_keys = values.template get<int>("concept_keys");
  config.concept_classes = values.template get<int>("concept_classes");
  config.concept_class_width = values.template get<int>("concept_class_width");
  config.concept_evidence = values.template get<double>("concept_evidence");
  config.vision_pool = values.template get<int>("vision_pool");
  config.vision_hidden = values.template get<int>("vision_hidden");
  config.learned_pooling = values.template get<std::string>("query_pooling") == "learned";
  config.memory_slots = values.template get<int>("memory_slots");
  config.memory_dim = values.template get<int>("memory_dim");
  config.memory_segment = values.template get<int>("memory_segment");
  config.memory_alpha = values.template get<float>("memory_alpha");
  config.memory_decay = values.template get<float>("memory_decay");
  config.literal_write = values.template get<std::string>("write_rule") == "literal";
  const std::string integration = values.template get<std::string>("memory_integration");
  config.integration = integration == "per_layer" ? Integration::kPerLayer
                       : integration == "add"     ? Integration::kAdd
                       : integration == "concat"  ? Integration::kConcat
                                                  : Integration::kOff;
  return config;
}

}  // namespace bitmar
