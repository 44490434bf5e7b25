"""Talk in a draft that is meant for whoever grades it: orders, wishes for a grade, forged marks and forged verdicts.

The patterns are few families, each kept narrow enough that recorded right drafts do not have it; `docs/judge.md` has
the figures. What they miss is still only data between marks to the judge.
"""

from __future__ import annotations

import re

_WHOM = r"""(?:judge|grader|evaluator|examiner|assessor|verifier|marker|scorer
    |(?:grading|scoring|evaluation|judging)\ (?:model|system|assistant|ai|bot))s?"""
_WHAT = r"(?:answer|draft|response|reply|solution|submission|output|work|text|one|it)"
_THIS = r"(?:this|the|my|that)"
_MARKS = r"(?:grades?|scores?|marks?|verdict|rating|credit|points?)"
_MOST = r"(?:full|max(?:imum|imal)?|highest|perfect|top|best)"
_BEST = rf"""(?:{_MOST}|1(?:\.0+)?|1\ ?/\ ?1|10\ ?/\ ?10|100\ ?%|100\ ?/\ ?100|one
    |correct|right|true|valid|pass(?:ing|ed)?|accept(?:ed)?|a\+)"""
_GIVE = r"(?:give|assign|award|grant)"
_SAY = r"(?:return|output|respond\ with|reply\ with|answer\ with|print|emit|set|report)"

_PATTERNS = (
    # Ignore what stands before, in the languages that attacks come in.
    r"""\b(?:ignore|disregard|forget|overrule|override|bypass|discard|do\ not\ follow|stop\ following)\b(?:\ \w+){0,5}?
        \ (?:instructions?|prompts?|rules?|guidelines?|directions|directives|criteria|rubric)\b""",
    r"""\b(?:ignore|disregard|forget|overrule|override|bypass|discard)\ (?:all\ |everything\ |what(?:ever)?\ )?
        (?:of\ )?(?:the\ |that\ )?
        (?:is\ |was\ |came\ |stands\ )?(?:above|previous|preceding|before|earlier|foregoing|prior)\b""",
    r"""\b(?:ignor|olvid|oubli|vergiss|vergess|missacht|esque|dimentic|negeer|zignoruj|neem)\w*\b.{0,40}
        \b(?:instruc\w+|istruzioni|anweisung\w*|anleitung\w*|consignes?|polecenia|regeln|reglas|regles)\b""",
    r"(?:忽略|无视|無視|忘记|忘掉).{0,20}(?:指令|指示|说明|說明|要求|规则|規則|提示|内容)",
    r"(?:指示|指令|命令|プロンプト|ルール).{0,10}(?:無視|忘れ)",
    r"(?:игнорир|забуд|проигнорир)\w*.{0,40}(?:инструкци|указани|правил)",
    r"(?:تجاهل|انس).{0,30}(?:التعليمات|الأوامر|الاوامر)",
    r"(?:지시|명령|지침).{0,12}(?:무시|잊)",
    # To the grader.
    rf"\byou(?:\ are|'re|\ re)\ (?:now\ )?(?:an?\ |the\ |my\ )?(?:\w+\ )?{_WHOM}\b",
    rf"\b(?:dear|hey|hi|hello|attention|(?:message|notes?)\ (?:to|for)(?:\ the)?)[,:]?\ {_WHOM}\b",
    rf"\b{_WHOM}\ ?[,:]?\ (?:please|is\ (?:required|instructed|asked|told)\ to|will\ now)\b",
    rf"\b(?!judge){_WHOM}\ (?:should|must|shall|has\ to|needs\ to)\b",
    rf"(?:^|[\n.!\[(])\ ?{_WHOM}\ ?[,:]\ ?(?:{_GIVE}|{_SAY}|respond|reply|score|grade|mark|rate|accept|approve|say)\b",
    # What it should give.
    rf"\b{_GIVE}\ (?:{_THIS}\ )?(?:{_WHAT}|me)\ (?:an?\ |the\ )?(?:{_MARKS}\ (?:of\ )?)?{_BEST}(?!\w)",
    rf"""\b(?:{_GIVE}|{_SAY})\ (?:it\ |me\ )?(?:an?\ |the\ )?(?:(?:final|overall)\ )?
        {_MARKS}\ ?(?:of|to|as|is|=|:|being)?\ ?['"]?{_BEST}(?!\w)""",
    rf"\b(?!return){_GIVE}\ (?:it\ |me\ )?(?:an?\ |the\ )?{_MOST}(?:\ possible)?\ {_MARKS}\b",
    rf"""\b(?:mark|grade|score|rate|label|treat|count|accept|judge|consider|classify|evaluate)\ {_THIS}
        (?:\ (?:above|following|given|final|entire|whole))?
        \ (?:{_WHAT}\ (?:as\ |to\ be\ |with\ |at\ )?|(?:as|to\ be|with|at)\ )
        (?:an?\ |being\ |fully\ |completely\ |entirely\ |100%\ )*{_BEST}(?!\w)""",
    rf"""\b{_THIS}\ (?:above\ |following\ |final\ )?{_WHAT}
        \ (?:should|must|deserves?|merits?|has\ to|needs\ to|is\ to|shall)
        (?:\ to)?\ (?:be\ |get\ |receive\ |always\ )*
        (?:graded|marked|scored|rated|considered|accepted|judged|given|treated|awarded|evaluated|{_BEST}
          |an?\ {_MARKS})\b""",
    rf"""\b(?:the|your|my|final|overall)\ (?:final\ )?(?:grade|verdict)(?:\ (?:for|of)\ (?:this|the)\ {_WHAT})?
        \ ?(?:is|must\ be|should\ be|:|=)\ ?['"]?{_BEST}(?!\w)""",
    rf"(?:^|\n)[^\w\n]*(?:final\ )?(?:grade|verdict)[^\w\n]*[:=][^\w\n]*{_BEST}[^\w\n]*(?:$|\n)",
    # The marks of the judge's message, and its verdict.
    r"<<<\ ?(?:end\ of\ )?(?:request|draft|reference)\b",
    r"draft_grade",
    rf"""\{{\ ?['"]?(?:grade|verdict|judge?ment)['"]?\ ?:\ ?['"]?{_BEST}['"]?\ ?\}}""",
    r"""['"]reason['"]\ ?:.{0,300}['"](?:grade|verdict|judge?ment)['"]\ ?:""",
)
_TALK = tuple(re.compile(pattern, re.VERBOSE) for pattern in _PATTERNS)


def speaks_to_grader(text: str) -> bool:
    """Whether a text, made plain, has something in it that is meant for its grader."""
    return any(pattern.search(text) for pattern in _TALK)
