"""What radiologists write in English."""

from __future__ import annotations

from popclust.simulation.report_sentences import Frame, Sentences

ENGLISH: dict[str, Sentences] = {
    "RID4799": Sentences(
        (
            "Emphysema with upper lobe predominance.",
            "Emphysematous changes of both upper lobes.",
            "Pulmonary emphysema is seen bilaterally.",
        ),
        ("No emphysema.", "There is no evidence of emphysema."),
        ("Possible mild emphysema.",),
        "History of emphysema.",
    ),
    "RID28502": Sentences(
        (
            "Several subpleural bullae in the apices.",
            "A large bulla is present in the right upper lobe.",
            "Apical bullae on both sides.",
        ),
        ("No bullae.",),
        ("Possible small bulla at the apex.",),
        "Rule out bulla.",
    ),
    "RID28537": Sentences(
        (
            "Air trapping in both lungs.",
            "There is air trapping with flattened diaphragms.",
            "Bilateral air trapping is noted.",
        ),
        ("No air trapping.",),
        ("Possible mild air trapping.",),
        "Air trapping?",
    ),
    "RID28531": Sentences(
        (
            "Patchy ground-glass opacities in both lungs.",
            "Bilateral ground glass opacity in a perihilar and dependent distribution.",
            "Diffuse ground-glass attenuation, most pronounced in the dependent lung.",
        ),
        ("No ground-glass opacities.", "There is no ground glass opacity."),
        ("Questionable faint ground-glass opacity.",),
        "Prior CT with ground-glass opacities.",
    ),
    "RID28510": Sentences(
        (
            "Interlobular septal thickening.",
            "Smooth thickening of the interlobular septa within these areas.",
            "Superimposed interlobular septal thickening.",
        ),
        ("No interlobular septal thickening.",),
        ("Possible mild interlobular septal thickening.",),
        "Septal lines on the radiograph.",
    ),
    "RID5350": Sentences(
        (
            "Appearances are in keeping with pneumonia.",
            "Findings consistent with atypical pneumonia.",
            "Bilateral pneumonia.",
        ),
        ("No pneumonia.", "No evidence of pneumonia."),
        ("Pneumonia cannot be excluded.",),
        "Pneumonia?",
    ),
    "RID43255": Sentences(
        (
            "Dense consolidation of the lower lobe with air bronchograms.",
            "Lobar consolidation.",
            "Consolidations in both lower lobes.",
        ),
        ("No consolidation.", "No focal consolidation is identified."),
        ("Possible small consolidation.",),
        "Consolidation on the radiograph.",
    ),
    "RID3820": Sentences(
        (
            "Advanced pulmonary fibrosis with basal and peripheral predominance.",
            "Fibrotic changes of both lung bases.",
            "Basal fibrosis of both lungs.",
        ),
        ("No pulmonary fibrosis.", "There is no evidence of fibrosis."),
        ("Early fibrosis cannot be excluded.",),
        "Known pulmonary fibrosis.",
    ),
    "RID35280": Sentences(
        (
            "Subpleural honeycombing at the bases.",
            "Extensive honeycombing is present.",
            "Honeycomb lung in the lower lobes.",
        ),
        ("No honeycombing.", "Without honeycombing."),
        ("Questionable honeycombing.",),
        "Honeycombing?",
    ),
    "RID38794": Sentences(
        (
            "Coarse subpleural reticulation.",
            "Reticulations in the periphery of both lower lobes.",
            "Peripheral reticular opacities.",
        ),
        ("No reticulation.",),
        ("Possible subtle reticulation.",),
        "Reticulation on the radiograph.",
    ),
    "RID28528": Sentences(
        (
            "Traction bronchiectasis in the lower lobes.",
            "There is associated traction bronchiectasis.",
            "Traction bronchiectases of the basal segments.",
        ),
        ("No traction bronchiectasis.",),
        ("Possible mild traction bronchiectasis.",),
        "Traction bronchiectasis?",
    ),
    "RID28496": Sentences(
        ("Bronchiectasis of the lower lobes.",),
        ("No bronchiectasis.",),
        ("Possible mild bronchiectasis.",),
        "Bronchiectasis?",
    ),
    "RID50149": Sentences(
        ("Pulmonary nodules in both lungs.", "Multiple bilateral lung nodules.", "Pulmonary nodules of varying size."),
        ("No pulmonary nodules.", "No suspicious pulmonary nodule."),
        ("A small pulmonary nodule cannot be excluded.",),
        "Follow-up of a pulmonary nodule.",
    ),
    "RID5231": Sentences(
        (
            "The appearance is that of metastases.",
            "Pulmonary metastases.",
            "Findings consistent with metastatic spread, with lung metastases.",
        ),
        ("No metastases.", "There is no evidence of metastasis."),
        ("Suspicious for metastases.",),
        "Metastases?",
    ),
    "RID34539": Sentences(
        (
            "Bilateral pleural effusions.",
            "Bilateral pleural effusion, layering dependently.",
            "Pleural effusions on both sides.",
        ),
        ("No pleural effusion.", "There is no evidence of pleural effusion.", "Negative for pleural effusions."),
        ("A trace pleural effusion is possible.",),
        "Pleural effusion?",
    ),
    "RID28493": Sentences(
        ("Adjacent compressive atelectasis.", "Atelectasis of the dependent lower lobes.", "Lower lobe atelectases."),
        ("No atelectasis.",),
        ("Possible minor atelectasis.",),
        "Atelectasis on the chest radiograph.",
    ),
    "RID4897": Sentences(
        ("Hiatal hernia.", "Moderate sliding hiatal hernia.", "Incidental note is made of a hiatus hernia."),
        ("No hiatal hernia.",),
        ("Possible small hiatal hernia.",),
        "Known hiatal hernia.",
    ),
    "RID3829": Sentences(
        ("Linear scars in the lung.", "Residual scarring is noted.", "A few pulmonary scars."),
        ("No scarring.",),
        ("This may represent a scar.",),
        "Scar after surgery.",
    ),
    "RID5196": Sentences(
        (
            "Calcifications of the aorta and coronary arteries.",
            "Coarse calcification of the aortic wall.",
            "Calcifications along the aortic arch.",
        ),
        ("No calcifications.",),
        ("Questionable faint calcification.",),
        "Known coronary calcification.",
    ),
    "RID4650": Sentences(
        (
            "Old healed fracture of a left lateral rib.",
            "A fracture of the left lateral chest wall is noted.",
            "Healed fracture of a left rib.",
        ),
        ("No fracture.", "No acute fractures are identified."),
        ("A rib fracture cannot be excluded.",),
        "Fall, fracture?",
    ),
    "RID3953": Sentences(
        ("Lung granuloma.", "A small granuloma is present.", "Single lung granuloma."),
        ("No granuloma.",),
        ("This may represent a granuloma.",),
        "Granuloma seen previously.",
    ),
    "RID3798": Sentences(
        (
            "Mediastinal lymphadenopathy.",
            "Enlarged mediastinal lymph nodes consistent with lymphadenopathy.",
            "There is lymphadenopathy in the mediastinum.",
        ),
        ("No lymphadenopathy.", "No mediastinal or hilar lymphadenopathy."),
        ("Possible borderline lymphadenopathy.",),
        "Lymphadenopathy?",
    ),
    "RID5352": Sentences(
        ("Pneumothorax.",),
        ("No pneumothorax.", "There is no pneumothorax."),
        ("A tiny pneumothorax is possible.",),
        "Pneumothorax?",
    ),
    "RID38588": Sentences(
        ("Pericardial effusion.",),
        ("No pericardial effusion.",),
        ("Possible trace pericardial effusion.",),
        "Pericardial effusion?",
    ),
}
"""English sentences by RadLex id."""

ENGLISH_FRAME = Frame(
    (
        ("Clinical indication:", "Findings:", "Impression:"),
        ("INDICATION:", "FINDINGS:", "IMPRESSION:"),
        ("Clinical history:", "Findings:", "Conclusion:"),
    ),
    (
        "Cough.",
        "Dyspnea.",
        "Staging.",
        "Follow-up.",
        "Chest pain.",
        "Fever of unknown origin.",
        "Preoperative assessment.",
    ),
    (
        "The heart is normal in size.",
        "The trachea and main bronchi are patent.",
        "The thoracic aorta is of normal caliber.",
        "The visualized upper abdomen is unremarkable.",
        "The thyroid is unremarkable.",
        "Comparison is made with the prior examination.",
    ),
    "Unremarkable CT of the chest.",
    "Compared with the prior examination there is no longer any sign of the following:",
)
"""Around English findings."""
