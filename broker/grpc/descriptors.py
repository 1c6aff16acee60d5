"""Descriptors of the services that the broker offers, for server reflection.

Written by `python -m tests.support.peers.write_descriptors`: do not edit. A test compares it with the messages in use.
"""

import base64
import zlib
from typing import Final, NamedTuple


class DescriptorFile(NamedTuple):
    """One .proto file: what it imports, the full names that it defines, and its FileDescriptorProto."""

    name: str
    imports: tuple[str, ...]
    symbols: tuple[str, ...]
    packed: str

    @property
    def serialized(self) -> bytes:
        """The FileDescriptorProto."""
        return zlib.decompress(base64.b85decode(self.packed))


# fmt: off
FILES: Final = (
    DescriptorFile(
        "coprocess_common.proto",
        (),
        (
            "coprocess.StringSlice",
            "coprocess.HookType",
        ),
        "c-lRVyAFat5CBC$VDWL;!dO@sD`R2f7Z@578zNd76E7Pfc()hsh~e)=3%i-A2Ii7Y!;-AMOIC{Yu2;vH{QG(dY2lhmKZ{o-2`3O%"
        "j+9+^D}R%0ZxA1u>q}<{Q;4p**8J9DfD!n4L&C!tf}E`rL!3eSr4x0B)|J9XglX1V$Er_RNwO9Jjv+piHLNX(@G<)B>_2lGFSY"
    ),
    DescriptorFile(
        "coprocess_return_overrides.proto",
        (),
        (
            "coprocess.ReturnOverrides",
            "coprocess.ReturnOverrides.HeadersEntry",
        ),
        "c-mc$!3u&v5QbUJ$~6lXilviu$<rR{BHe>-K`$Wc4itqevnu$gy-lm8P}hIH`Q{%QWU4@wfz~lXSz#Wl8W0~6v@nBGF?S?(Z$ekM"
        "j=ByITT>rF7b@2fXG#Jm0SO(pq02Egs6uX;++`7+-64^Hn%jXLdWXFj{o>CpE<Jh9OKe)>Q0;4+7~}k>K&oWJo%YaH(8bTXN9`vx"
        "T|1Zg)TxtK1%0WL6_Iq>eS7=>$2L-y"
    ),
    DescriptorFile(
        "coprocess_mini_request_object.proto",
        (
            "coprocess_return_overrides.proto",
        ),
        (
            "coprocess.MiniRequestObject",
            "coprocess.MiniRequestObject.HeadersEntry",
            "coprocess.MiniRequestObject.SetHeadersEntry",
            "coprocess.MiniRequestObject.ParamsEntry",
            "coprocess.MiniRequestObject.AddParamsEntry",
            "coprocess.MiniRequestObject.ExtendedParamsEntry",
        ),
        "c-n=N&rZTX5QoFR0@G5kMAP&{^ny_vL`?`6!+}H(27?dKl<p){X^Yz}%B%RauG>-zn)W!`@Apl1W(#Ldu%>~7VQ6`-?^+b!BMg}p"
        "EMC!JCjZ6)t(ihb@0X{@BI;Yg1}Sw3hB18lCBe}XSIuM7Oo+5G)R$-zq@iBwRr>Pq+)Pd8AKZM1*{RRyR-1qvBC~e+vdCZN=3kKQ"
        "DNaBoxI%`hrNS*uO@ZnnAX~lKEAdK(N<>$BO%x-L);6`hP?to*es05OfyT}50c=97BwZKji`?{tkgVVl+W5)PCzx6q!ZOIUOp{Dj"
        "bquZK;)$p!?tKfL!}aOFuPqOaOpCcdW;;StLGq9-1ER}fL|u?~?<JzHu82bph0YQ^)LWwNK!e&JmKd|jPZYxhWp6or>~FZ`@8Sn<"
        "L2YBNBIIl4<+wa58Q0K0+-Fhb3gqk*itqub2P-H_+(GxhaTmlElK4k%z5yxQ12_"
    ),
    DescriptorFile(
        "coprocess_response_object.proto",
        (),
        (
            "coprocess.Header",
            "coprocess.ResponseObject",
            "coprocess.ResponseObject.HeadersEntry",
        ),
        "c-mEvO>4qH5QbS}VlzpDZZDyiilF4uJ?NpOccHgJ|G<)uf%>_!vuVkX^}iTK4b5?ed7gP^;H5MtYf2>27U^V;gxVBaES+lm&d9JE"
        "n9U*h#JoZ)Bk*?Eq+%+vP$m%k=KC5c9ZbC}oSg+E-#6D6tK<_z<Z@S&E=`5Z`Em>oHviLwshXA)SuA51a^<o24Msn_j?!T(j+P76"
        "Wl{YF>Y9tzM`s)P3i43z-G)=?yTfP4<e%dTJu8TNc<;DJ@L9tN!;itcC<1=W>H_VMS+x"
    ),
    DescriptorFile(
        "coprocess_session_state.proto",
        (),
        (
            "coprocess.AccessSpec",
            "coprocess.AccessDefinition",
            "coprocess.BasicAuthData",
            "coprocess.JWTData",
            "coprocess.Monitor",
            "coprocess.SessionState",
            "coprocess.SessionState.AccessRightsEntry",
            "coprocess.SessionState.OauthKeysEntry",
            "coprocess.SessionState.MetadataEntry",
        ),
        "c-n<jTTc@~6izA7_Vmhf8;WSDmmnsn_@LoQ48CZHMofI147)>jWV^G>Oo9Gie~4$!c43haUz+YY-<<QE?_6Lj)S1ztw3b`^Q99+;"
        "2`Bf^>U7Y!aSwL^4nzO%B$Hv#gzCg3tTL$VG=eVF#?r+)vTSZp-DwOh^m6QxJX5K17&hoZU1W-<Vk~FRI<V+1D#BO(8xfb%cn+3T"
        "eVpJGv_z8VD;aUjX4yPioBOMKH>~z<DGgsk`;)LLJe;`rNI2o+Wy0DkZK7Gm7R<-O#(BQs2GqX%`bkivVr6Kg%Ynmfs2yu0u1&B8"
        "9cR>NBn?m0SUHQ3>P}_&rw*-?T(T3dSP%dt!a5$tGCZd^)nEx4RDeiBNm(nNgF!e}=)X|MOd2fAf1r-?I#Whkwop93m}n>XSX{G3"
        "GOa)>HyN4AE6ZwRU59RA9Sc-E9kDt&`Vf@hBH@&~LB5aB79=0X`eG~$NZywvdCLXPwEjWZ&#5z0FPk<a-@zv7i!`)A`FWTqnL6)i"
        "k>da$cbv<qWo^py;-Ng>Jn}07^CWMfd+PhjDL{nnVjT?H+-Ic#cRT+K>c6jCj_ndQC}E4Hqm=Pjgj}ZLG?5YOA+jDULzAqtc~~O;"
        "XjGP~RD@1lN)`|js})(6OnIgg6;6G%%Y??jJ~c0zxk7S3#VyHaiml$`R7~48Y~*x!B%M%53p*F$1pAh*QQG%V$88f-+&U@w{2?We"
        "XSiHQoIEE+mND9`HY|ul3ClJL&NRJ~3?HBveX?%Bs*11<XRvZ@kd%lLl}ffrB{Ap~S0hnp(ka~SN94h+DQTlnge}U7LWa^fb*4f;"
        "h>wf0!2#zN6KSTHB6Bf&LQ!zOaA3T!0|MeSXBtV8uv6~4p;NX^z5%eZZ-k5`$K6soVnZLT{~ea@k1#GErkLG_U0Apj$s}LZ=Kkir"
        "Lvwr24(2{o`fs4~&#>MJ*Di-^&<i|LcboE`2d9g4h~NDMtAdbi"
    ),
    DescriptorFile(
        "coprocess_object.proto",
        (
            "coprocess_common.proto",
            "coprocess_mini_request_object.proto",
            "coprocess_response_object.proto",
            "coprocess_session_state.proto",
        ),
        (
            "coprocess.Object",
            "coprocess.Object.MetadataEntry",
            "coprocess.Object.SpecEntry",
            "coprocess.Event",
            "coprocess.EventReply",
            "coprocess.Dispatcher",
            "coprocess.Dispatcher.Dispatch",
            "coprocess.Dispatcher.DispatchEvent",
        ),
        "c-n=M!B4_47{!4BV;`bYqt2;;%*0@bGtP_QEQuFl0^XN0nlNGOTnot(um0cGcCaA_FH8E~@9TU0GC1>ToKT-I=F#Z~@wp?8oFZeZ"
        "TLr|YVMrr|SU0&I22tQ8<a0$B-?_)?<WNFbOe02if$JP#;uFxwV;pm$Z2Mb-`kUm@Ef{l37amVzVwSt*-l2QqY^R-9;k^qBwKFcl"
        "Au%h0GtfQgSvyk`Lesq}430$kv2wGd9_U#YvnuiP0zOgB<hLYxghog>o?(v7T2~Wjr+}*KoKZ#$Bc7z_4yr6BzFC*}<vu<Uu0s3J"
        "*euP|Ws!>lKF%yPW<5Y_H>e5Pf~0a&25LcVjhCxzA%n_u+3JIlNBslaCe(&&5^;0{dW_R0#WMxl2LRF;lX#iBUjQ!wi!t}-Btb4T"
        "HYe2Hd#SZA*(Ef9)@DW}9v3L7Sf_s#nQfP*b@|gg{Q!Xp<d6"
    ),
    DescriptorFile(
        "grpc_health/v1/health.proto",
        (),
        (
            "grpc.health.v1.HealthCheckRequest",
            "grpc.health.v1.HealthCheckResponse",
            "grpc.health.v1.HealthCheckResponse.ServingStatus",
            "grpc.health.v1.HealthListRequest",
            "grpc.health.v1.HealthListResponse",
            "grpc.health.v1.HealthListResponse.StatusesEntry",
            "grpc.health.v1.Health",
            "grpc.health.v1.Health.Check",
            "grpc.health.v1.Health.List",
            "grpc.health.v1.Health.Watch",
        ),
        "c-pN~O;5r=5Os@yZk3PaLhzzBCLGL`){F5bgrHFip$LhWrZ$_F(6qH(n(%kL>A`<!Vz*loFa$Yx+j%o@=Do=*Jh8*TG8|&M)RALF"
        "<}VzCKJ`(FC2<DDigW?dT^e*8V$Fu+ZB8PJ%CH!bFrHeZ4o*SyQ2GF{wpJGfz84X63kwl7={!p7N~(g_`{NBHth3ght*1n(50BRX"
        "B*Nme_Mr7AT4j#~dUrU!*LoF@$P%^w$XEgbs=;y^bh^fpl9Ot%%BMa~BbqsqzQEEbM>G9xc);}&<{;M;)z)SQt1PT%l&(j^MPrm0"
        "SOpTzxfxmT%^?-$W7D0Jx{!pTdcMPgZiH)~egjzGIW&OzG>@dM<kV<mmjUPr?lVK^Y@1o$Px^ZwXbAHYlUmNd32cFO0IO5~S7}@1"
        "wF7p_1MqTb`@ZcGZ2PY1+1L+lnGv#!mskFQ5i9S)Q7-{_hq3Z0lvtQe$7AKSkp7UX9~?;z`v"
    ),
    DescriptorFile(
        "grpc_reflection/v1alpha/reflection.proto",
        (),
        (
            "grpc.reflection.v1alpha.ServerReflectionRequest",
            "grpc.reflection.v1alpha.ExtensionRequest",
            "grpc.reflection.v1alpha.ServerReflectionResponse",
            "grpc.reflection.v1alpha.FileDescriptorResponse",
            "grpc.reflection.v1alpha.ExtensionNumberResponse",
            "grpc.reflection.v1alpha.ListServiceResponse",
            "grpc.reflection.v1alpha.ServiceResponse",
            "grpc.reflection.v1alpha.ErrorResponse",
            "grpc.reflection.v1alpha.ServerReflection",
            "grpc.reflection.v1alpha.ServerReflection.ServerReflectionInfo",
        ),
        "c-oazO>fgc5XDWCsFS8K3rS3*LgfPl2{~;zpmIVHMSLlWnp-a`$Jw|mZM<gJjmU{RSN;rtgMY+&?ZmE$i+Zv&Gw;pJo41C(FG3Fs"
        "vS7rEC=Uj!Gna+e?jQ>}q2Lim-MG@ph0{v==N@#YM68Io+$Jx{w;LiObO`&`Tt=30V)PGC56lH+1kctu{s!)nSd}>Q@c}x4j?Q^J"
        "h+G=bz{hgEoN;FDrxjy(Qmi1~BN9l}&#J1T#_*+6GNf~{sZ1wRd@tbGWh~>s!Oe0;gv5M-qjgBETH3e^O-5yerCO4DL|XMEF?tBC"
        "C6UtgiBeG0+81CJTPb`iH?yWr^svAzcDMFarfUDGfc3AYGUS0I2m!2IM&~#u?PoB#pgs*;wwXm!HHN39nv@-F3YHdnPNXMj7;&K}"
        "livCmjp3k_^MeAu-{LkSD-o~Y>29^R)YbotyVZ59kvZ-$bZ#9e<E&}USEZa^6>OTIa(wULhzOBiyRLbjm(LcLXAC0*X6B3}YQKTb"
        "ZgtQxw2Ol4H>Yk}=^xr(pj)y#>cG*=l|-8g>-Th*vntA26L_>^X><<tR6X6aG3?)In;g`B2CX8SdiL2c_FHJ)(kC`>qOZs2Nl_KG"
        "p_#-|-L!iThQACji#|m^;BhhbDOhlHZ>#st?tw^#?;EGaNJ5YDGU%vX#7^R4PK>K_pL3rP$LGuqe1{8v5Od`IwS&U%7^j@S4P#c*"
        "o_PHinda(Q"
    ),
    DescriptorFile(
        "grpc/reflection/v1/reflection.proto",
        (),
        (
            "grpc.reflection.v1.ServerReflectionRequest",
            "grpc.reflection.v1.ExtensionRequest",
            "grpc.reflection.v1.ServerReflectionResponse",
            "grpc.reflection.v1.FileDescriptorResponse",
            "grpc.reflection.v1.ExtensionNumberResponse",
            "grpc.reflection.v1.ListServiceResponse",
            "grpc.reflection.v1.ServiceResponse",
            "grpc.reflection.v1.ErrorResponse",
            "grpc.reflection.v1.ServerReflection",
            "grpc.reflection.v1.ServerReflection.ServerReflectionInfo",
        ),
        "c-oay(QeZ)6ea80YPahe3~SA#!N?}90@Sg9gamIBLsUb1*u=Ayq;9d4+QCjM`T;!fM|>WRowiw)B6x~&eb2ea=N`lHL?+Rhq~n-I"
        "DHHr`eqQ(+BvPaTp{!|8D9_KmpIgworE*T?&8mJwzt5;j(JpL%6Dq~dk<;Hn2jGrbOi8#P*_Q`Xifh@)=LhHry5=krJPjCUd_vS>"
        "8j2Wi=N&_MQtqHXQp%N{hwHkj<(~}h>l<7yn{rW_>J$!xI9|gEpG`w56%k{SE)t3x`OF@)W2RD~^!->w6>i#ti-*veQl)|kCDPJ*"
        "m*AF1X?&+3*HBw4Fu3LEcuSwuz27y!_w7`P;EEyyFb`rjA_Z6VTp`(n@gQDmF;p%8WtAP9R&@>7*gK*sk}OGu)NFRFSwYKxQAPJj"
        "V?M4ROQG7jukf_m;}vUtv&fZ^*9KIe9YXicM%Hu<Lw8z5_eCRaEucX40rser#d|gl#q&x<S?3yjfxuk{z*fC?(5<!u9m0OuT=Ssx"
        "3Typc?+SVwZj8FH7Y2%&>=5%}{uZE`4$u`ms<<zD3(ed!GqmL&Z%Ri2<voK=nMl9swGQt+wC`AxMbx?)iIHupqkU-GT5g%i=Z^o&"
        "0k<4SG=s<G+K`V0`kyc#y!y9hE4lBycEX0)$D2PbAg9d"
    ),
)

SERVICES: Final = (
    "coprocess.Dispatcher",
    "grpc.health.v1.Health",
    "grpc.reflection.v1.ServerReflection",
    "grpc.reflection.v1alpha.ServerReflection",
)
