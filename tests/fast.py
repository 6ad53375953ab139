"""What `pytest -m fast` runs: some of each room, in about two minutes on two cores."""

# File -> how the names of its fast tests begin; '' is all of them.
FAST = {
    # The whole: names, imports, refusals.
    'test_package': [''],
    'test_static': [''],
    'test_conditions': [''],
    'test_refusals': [''],
    'test_tfp_internals': [''],
    # core
    'test_distribution': [
        'TestCompiled', 'TestSeeds', 'TestValues', 'test_misuse'],
    'test_one_pass': [''],
    'test_traps': [
        'test_trap_1_', 'test_trap_2_', 'test_trap_3_values', 'test_trap_4_',
        'test_trap_6_', 'test_trap_9_'],
    'test_copies': ['test_a_distribution', 'test_copy_with'],
    'test_serving': ['test_a_stock', 'test_refusals'],
    # transformers
    'test_spline': ['test_equals', 'test_finite', 'test_monotone', 'test_zero'],
    # networks
    'test_autoregressive': [
        'test_a_seed', 'test_degrees', 'test_density', 'test_each_unit', 'test_misuse'],
    'test_conditioners': [
        'test_a_new', 'test_dropout', 'test_misuse', 'test_random', 'test_ridge'],
    # embeddings
    'test_embeddings': [
        'test_a_deep', 'test_a_set', 'test_a_time', 'test_pad_and', 'test_seeds'],
    # bijectors
    'test_catalogue': [
        f'test_properties[{name}]' for name in (
            'autoregressive', 'chain_permute_shift', 'coupling_additive_dict', 'embedding',
            'real_nvp_nested_conditions', 'real_nvp_spline')],
    'test_differential': [''],
    'test_bounds': ['test_columns', 'test_it_finds', 'test_one_bound'],
    'test_gaussianization': ['test_gaussian', 'test_it_is'],
    'test_mixing': ['test_act_norm', 'test_linear', 'test_misuse', 'test_new'],
    'test_squash': ['test_misuse', 'test_the_bounds', 'test_validate'],
    'test_standardize': ['test_it_', 'test_misuse', 'test_name'],
    'test_tails': ['test_excesses', 'test_misuse'],
    # flows
    'test_real_nvp': [
        'TestChain', 'TestDistribution::test_stock', 'test_a_new', 'test_event',
        'test_seeds', 'test_trainable', 'test_two'],
    'test_saved_identity': [''],
    'test_config': ['test_a_class', 'test_bases', 'test_other_configs'],
    # fitting
    'test_fit': [
        'test_a_resumed', 'test_a_step_is', 'test_batches', 'test_early', 'test_loss',
        'test_misuse', 'test_seeds'],
    'test_first_weights': ['test_gains'],
    'test_programs': ['test_python'],
    'test_ensembles': ['test_each', 'test_events', 'test_misuse'],
    # What the package does not import.
    'test_posterior': ['test_smoothing', 'test_thresholds', 'test_weights'],
    'test_diagnostics': ['test_misspecification_of', 'test_predictive_checks', 'test_z'],
    'test_structured_benchmark': ['test_sizes', 'test_the_optimum'],
    'test_conformal': ['test_thresholds', 'test_rows'],
    'test_calibration': [
        'test_coverage', 'test_kolmogorov', 'test_misuse', 'test_ranks', 'test_tarp'],
    'test_plot': ['test_bins', 'test_highest', 'test_misuse', 'test_rank_histogram_'],
    'test_testing': ['test_misuse', 'test_one_error', 'test_perturb'],
    'test_keras': ['test_methods', 'test_misuse', 'test_ready'],
    'test_rl': [
        'TestActing::test_seeds', 'TestDensity::test_sampling',
        'TestLearning::test_a_buffer', 'TestPointMass', 'TestSpaces'],
}


def is_fast(item):
    """Whether a collected test is one of them."""
    _, _, name = item.nodeid.partition('::')
    return name.startswith(tuple(FAST.get(item.path.stem, ())))
