#include "smoe/moe/routers/settings.h"

namespace smoe {

void LearnedSettings::describe(Fields& fields) {
  fields.add(
      "score", &score,
      "what the k experts are chosen by and weighed with: logits and a softmax over the selected (at k = 1 the "
      "weight is always 1, and the router does not learn from the task), a softmax over all, or a sigmoid of each",
      one_of({"selected_softmax", "softmax", "sigmoid"}));
  fields.add("renormalize", &renormalize, "whether the weights of a token are divided by their sum");
  fields.add("jitter", &jitter, "in training, the router's input times numbers from [1 - jitter, 1 + jitter]",
             between(0, 1));
  fields.add(
      "bias_rate", &bias_rate,
      "step of a bias that is added to the scores for the selection alone, up where an expert took less than the "
      "mean, down where more; 0: no bias",
      at_least(0));
}

void SwitchSettings::describe(Fields& fields) {
  fields.add("jitter", &jitter, "in training, the router's input times numbers from [1 - jitter, 1 + jitter]",
             between(0, 1));
}

void GshardSettings::describe(Fields& fields) {
  fields.add("random_second", &random_second,
             "whether, in training, the second expert is left out with probability 1 - 2w, w its weight");
  fields.add("balance", &balance, "weight of E · Σ f·P with f counted over first choices alone", at_least(0));
}

void NoisyTopkSettings::describe(Fields& fields) {
  fields.add("importance", &importance, "weight of the squared coefficient of variation of the experts' summed weights",
             at_least(0));
  fields.add("load", &load, "weight of the same of how many tokens each expert would get, smoothly counted",
             at_least(0));
  fields.add("noise_floor", &noise_floor, "smallest standard deviation of the noise", at_least(0));
}

void RandomTokenSettings::describe(Fields& fields) {
  fields.add("weight", &weight, "equal, or the softmax of the selected draws (the published code)",
             one_of({"equal", "softmax"}));
}

void ExpertChoiceSettings::describe(Fields& fields) {
  fields.add("capacity", &capacity, "tokens an expert takes, as a multiple of T/E: the mean number of experts a token",
             above(0));
}

void HashSettings::describe(Fields& fields) {
  fields.add("by", &by, "what decides: the token's id, or its position in the sequence", one_of({"token", "position"}));
}

void TopPSettings::describe(Fields& fields) {
  fields.add("threshold", &threshold, "probability that a token's experts reach together; 1: every expert",
             Allowed{.min = 0, .max = 1, .open_min = true, .names = {}});
}

void ThorSettings::describe(Fields& fields) {
  const std::vector<std::string> units = {"batch", "sequence", "token"};
  fields.add("unit", &unit, "what one draw of an expert is for in training, in each layer and pass", one_of(units));
  fields.add("eval_unit", &eval_unit, "the same at evaluation", one_of(units));
  fields.add("samples", &samples, "experts averaged at evaluation; E: all of them, which leaves nothing to chance",
             at_least(1));
}

void DropGateSettings::describe(Fields& fields) {
  fields.add("rate", &rate, "probability that a logit becomes 0 in training", between(0, 0.999));
}

void DenseToSparseSettings::describe(Fields& fields) {
  fields.add("max_temperature", &max_temperature, "temperature of the softmax at the beginning of the training",
             above(0));
  fields.add("min_temperature", &min_temperature, "the same at its end; between them it falls evenly", above(0));
  fields.add("threshold", &threshold, "probability above which an expert counts towards a layer's k in training",
             between(0, 1));
  fields.add("eval_weight", &eval_weight,
             "weights at evaluation: a softmax over the selected, or over all without renormalising",
             one_of({"selected_softmax", "softmax"}));
}

void AdamoeSettings::describe(Fields& fields) {
  fields.add("weigh_null", &weigh_null, "whether null experts take part in the softmax that a token's weights are");
  fields.add("balance", &balance, "weight of E · Σ f·P with null experts pooled: to each of them the mean of their f",
             at_least(0));
  fields.add("late_balance", &late_balance, "the same from the part late_from of the training on", at_least(0));
  fields.add("late_from", &late_from, "the part of the training after which late_balance holds", between(0, 1));
}

void MoePpSettings::describe(Fields& fields) {
  fields.add("renormalize", &renormalize,
             "whether the weights of a token's experts that are not null sum to 1; off, they are softmax(z) as it is");
  fields.add("balance", &balance,
             "weight of E · Σ η·f·P, η = 1 for networks and moe.network_share for experts that are none", at_least(0));
}

void RmoeSettings::describe(Fields& fields) {
  fields.add("width", &width, "width of a token's state", at_least(1));
  fields.add("detach", &detach, "whether the gradient stops at the state of the mixture below (the paper's ablation)");
}

void CometSettings::describe(Fields& fields) {
  fields.add("trees", &trees, "trees of a layer: as many experts a token takes at most, once all splits are saturated",
             at_least(1));
  fields.add("gamma", &gamma, "width of the smooth-step: a split is saturated at gamma/2 on either side of 0",
             above(0));
  fields.add("saturation", &saturation, "weight of the entropy of the trees' leaves, which drives splits to saturation",
             at_least(0));
  fields.add(
      "permutation", &permutation,
      "which expert is at which leaf: the one of its number, or what is learned, by one permutation for all trees "
      "or one for each (COMET+)",
      one_of({"none", "shared", "per_tree"}));
  fields.add("permutation_until", &permutation_until,
             "share of the training in which permutations are learned; after it they stay as they are", between(0, 1));
  fields.add("max_temperature", &max_temperature, "temperature of the soft permutations at first", above(0));
  fields.add("min_temperature", &min_temperature, "the same at last; between them its logarithm falls evenly",
             above(0));
  fields.add("noise", &noise, "Gumbel noise on what soft permutations are made of, times this", at_least(0));
  fields.add("permutation_entropy", &permutation_entropy, "weight of the entropy of the soft permutations",
             at_least(0));
}

void EvomoeSettings::describe(Fields& fields) {
  fields.add("max_temperature", &max_temperature, "temperature of the softmax at the beginning of the training",
             above(0));
  fields.add("min_temperature", &min_temperature, "the same from cool_until on", above(0));
  fields.add("decay", &decay, "how it falls between them: evenly, or evenly in its logarithm",
             one_of({"linear", "exponential"}));
  fields.add("cool_until", &cool_until, "share of the training in which it falls", between(0, 1));
  fields.add("hard_from", &hard_from, "share of the training after which a token takes k experts; 1: never",
             between(0, 1));
  fields.add("threshold", &threshold, "probability above which a token takes an expert in training before that",
             between(0, 1));
  fields.add("weight", &weight,
             "weights in training: the softmax of the logits, or the noisy one that experts are chosen by; neither is "
             "renormalised",
             one_of({"softmax", "noisy"}));
  fields.add("balance", &balance, "weight of E · Σ f·P with P the mean weight that is given to an expert", at_least(0));
}

void PostMoeSettings::describe(Fields& fields) {
  fields.add("renormalize", &renormalize,
             "whether the weights of a token are divided by their sum, so that at k = 1 the router does not learn from "
             "the task; off, they are softmax(z) as it is");
}

void RouterSettings::describe(Fields& fields, const std::string& chosen) {
  fields.kind_table("learned", chosen, learned);
  fields.kind_table("switch", chosen, switch_transformer);
  fields.kind_table("gshard", chosen, gshard);
  fields.kind_table("noisy_topk", chosen, noisy_topk);
  fields.kind_table("hash", chosen, hash);
  fields.kind_table("random_token", chosen, random_token);
  fields.kind_table("expert_choice", chosen, expert_choice);
  fields.kind_table("top_p", chosen, top_p);
  fields.kind_table("thor", chosen, thor);
  fields.kind_table("drop_gate", chosen, drop_gate);
  fields.kind_table("dense_to_sparse", chosen, dense_to_sparse);
  fields.kind_table("adamoe", chosen, adamoe);
  fields.kind_table("moe_pp", chosen, moe_pp);
  fields.kind_table("rmoe", chosen, rmoe);
  fields.kind_table("comet", chosen, comet);
  fields.kind_table("evomoe", chosen, evomoe);
  fields.kind_table("post_moe", chosen, post_moe);
}

}  // namespace smoe
