/* SIMC for  k e^{-theta s} / ((tau1 s + 1)(tau2 s + 1)):
 *
 *   Kc = tau1 / (k (tau_c + theta))    tauI = min(tau1, 4 (tau_c + theta))    tauD = tau2   (series form)
 *
 * Half rule: of the largest lag left out, half goes to the lag before it and half to the delay; smaller ones
 * and inverse-response zeros go to the delay whole, and half a sampling period with them. */

#include "control/simc.h"

#include "control/pid.h"

#include <assert.h>
#include <math.h>

void simc_reduce(struct simc_model *model, int order, double gain, double delay, const double *lags,
                 size_t lag_count, const double *zeros, size_t zero_count, double sampling_s) {
  assert(order == 1 || order == 2);
  size_t kept = (size_t)order;
  double lag[2] = {0, 0};
  for (size_t i = 0; i < lag_count; i++) {
    if (i < kept) {
      lag[i] = lags[i];
      continue;
    }
    double half = i == kept ? lags[i] / 2 : 0;
    lag[kept - 1] += half;
    delay += lags[i] - half;
  }
  for (size_t i = 0; i < zero_count; i++)
    delay += zeros[i];
  *model = (struct simc_model){.gain = gain, .lag1 = lag[0], .lag2 = lag[1], .delay = delay + sampling_s / 2};
}

void simc_tune(const struct simc_model *model, double tau_c, struct pid_settings *settings) {
  double horizon = tau_c + model->delay, gain = model->lag1 / (model->gain * horizon);
  double integral = fmin(model->lag1, 4 * horizon), derivative = model->lag2;
  double ideal = 1 + derivative / integral;
  settings->gain = gain * ideal;
  settings->integral_s = integral * ideal;
  settings->derivative_s = derivative / ideal;
}
