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
}

}  // namespace smoe
